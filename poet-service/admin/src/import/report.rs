//! The progress of an import, and its result.

use poet_proto::identity::PublicKey;

/// The progress of an import.
#[derive(Clone, Copy, Debug)]
pub enum ImportProgress {
    /// Converting the nodes of a layer to a tree log.
    Converting {
        /// The round.
        round: u64,
        /// The height of the layer.
        height: u32,
        /// Nodes read.
        done: u64,
        /// Nodes there are.
        total: u64,
    },
    /// Recomputing subtrees.
    Checking {
        /// The round.
        round: u64,
        /// Subtrees recomputed.
        done: u64,
        /// Subtrees to recompute.
        total: u64,
    },
    /// Looking for the end of what is intact.
    Searching {
        /// The round.
        round: u64,
    },
}

/// The result of an import.
#[derive(Debug)]
pub struct ImportReport {
    /// Whether everything was there before.
    pub already: bool,
    /// The server's public key.
    pub public_key: PublicKey,
    /// The rounds, in increasing order.
    pub rounds: Vec<RoundReport>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// What was imported of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundReport {
    /// Its number.
    pub round: u64,
    /// Its members.
    pub members: u64,
    /// What was imported besides them.
    pub taken: Taken,
}

/// What was imported of a round besides its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Its proof.
    Proof {
        /// Leaves proven.
        leaves: u64,
    },
    /// The work so far.
    Work {
        /// The number of leaves from which it continues.
        leaves: u64,
        /// The number of leaves that the Go server recorded.
        recorded: u64,
    },
    /// Nothing: the work has not begun.
    Members,
}
