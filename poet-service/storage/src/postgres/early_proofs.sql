-- Proofs that were made before the end of a round. Lists of 32-byte values, one after the other.
CREATE TABLE poet.early_proofs (
    round         bigint NOT NULL,
    cycle_gap     bigint NOT NULL,  -- of the nodes that they are for, in nanoseconds
    leaves        bigint NOT NULL,
    root          bytea NOT NULL,
    proven_leaves bytea NOT NULL,
    proof_nodes   bytea NOT NULL,
    checksum      bigint NOT NULL,  -- CRC-32C of all that
    PRIMARY KEY (round, cycle_gap)
);
