//! The members of a round and their challenges.

use std::{array::TryFromSliceError, fmt};

/// Types of 32 bytes that must not be confused.
macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = TryFromSliceError;

            fn try_from(bytes: &[u8]) -> Result<Self, TryFromSliceError> {
                bytes.try_into().map(Self)
            }
        }

        impl hex::FromHex for $name {
            type Error = hex::FromHexError;

            fn from_hex<T: AsRef<[u8]>>(text: T) -> Result<Self, hex::FromHexError> {
                <[u8; 32]>::from_hex(text).map(Self)
            }
        }

        /// In hexadecimal digits.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

bytes32! {
    /// A node, by its ed25519 public key.
    NodeId
}

bytes32! {
    /// What a node registers: a leaf of the round's membership tree.
    Challenge
}

impl Challenge {
    /// Returns what nodes read for a challenge of any length: its first 32 bytes, padded with
    /// zeros.
    pub fn cut_or_padded(bytes: &[u8]) -> Self {
        let mut challenge = [0; 32];
        let length = bytes.len().min(32);
        challenge[..length].copy_from_slice(&bytes[..length]);
        Self(challenge)
    }

    /// Concatenates the bytes of `challenges`.
    pub fn concat(challenges: &[Self]) -> Vec<u8> {
        let bytes: Vec<[u8; 32]> = challenges.iter().map(|challenge| challenge.0).collect();
        bytes.into_flattened()
    }

    /// Splits the output of [`Challenge::concat`]; `None` if the length is not a multiple of 32.
    pub fn split(bytes: &[u8]) -> Option<Vec<Self>> {
        let (challenges, rest) = bytes.as_chunks();
        let all = challenges.iter().copied().map(Self).collect();
        rest.is_empty().then_some(all)
    }
}

/// One registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node that registers.
    pub node_id: NodeId,
    /// The registered challenge.
    pub challenge: Challenge,
}
