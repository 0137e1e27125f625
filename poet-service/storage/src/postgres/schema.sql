CREATE SCHEMA IF NOT EXISTS poet;

CREATE TABLE poet.schema_version (
    only_row    boolean PRIMARY KEY CHECK (only_row),
    version     integer NOT NULL,
    database_id bytea NOT NULL
);

CREATE TABLE poet.settings (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);

-- Its row is locked by whoever registers for a round and by whoever closes it.
CREATE TABLE poet.rounds (
    round          bigint PRIMARY KEY,
    starts         timestamptz,                    -- not closed before that
    closed         boolean NOT NULL DEFAULT false,
    members        bigint NOT NULL DEFAULT 0,
    statement      bytea,                          -- set when the membership is settled
    subtree_height integer                         -- likewise
) WITH (fillfactor = 50);

CREATE TABLE poet.registrations (
    round     bigint NOT NULL,
    node_id   bytea NOT NULL,
    challenge bytea NOT NULL,
    PRIMARY KEY (round, node_id)
);

-- Lists of 32-byte values, one after the other.
CREATE TABLE poet.proofs (
    round         bigint PRIMARY KEY,
    statement     bytea NOT NULL,
    leaves        bigint NOT NULL,
    root          bytea NOT NULL,
    proven_leaves bytea NOT NULL,
    proof_nodes   bytea NOT NULL,
    members       bytea NOT NULL,
    checksum      bigint NOT NULL  -- CRC-32C of all that, and of its odd members
);
ALTER TABLE poet.proofs ALTER COLUMN members SET STORAGE EXTERNAL;

-- Members of a proof whose challenge has another length; `members` has 32 bytes of it.
CREATE TABLE poet.odd_members (
    round     bigint NOT NULL,
    position  bigint NOT NULL,
    challenge bytea NOT NULL,
    PRIMARY KEY (round, position)
);

-- Registers nodes in their order. Returns a letter for each: n (new), a (already), c (conflict),
-- f (full); null if the round does not take registrations.
-- `register.sql` replaces it.
CREATE FUNCTION poet.register(
    for_round bigint, max_members bigint, node_ids bytea[], challenges bytea[]
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    count    bigint;
    added    bigint;
    outcomes text;
BEGIN
    -- Whoever closes the round, or registers for it, waits for the end of this transaction.
    SELECT members INTO count FROM poet.rounds
    WHERE round = for_round AND NOT closed FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF count >= max_members THEN
        RETURN repeat('f', cardinality(node_ids));
    END IF;
    IF count + cardinality(node_ids) > max_members THEN
        outcomes := '';
        FOR i IN 1..cardinality(node_ids) LOOP
            outcomes := outcomes
                || poet.register(for_round, max_members, node_ids[i:i], challenges[i:i]);
        END LOOP;
        RETURN outcomes;
    END IF;
    SELECT string_agg(
               CASE WHEN coalesce(known.challenge, given.first) <> given.challenge THEN 'c'
                    WHEN known.challenge IS NULL AND given.place = 1 THEN 'n'
                    ELSE 'a' END,
               '' ORDER BY given.i),
           count(*) FILTER (WHERE known.challenge IS NULL AND given.place = 1)
    INTO outcomes, added
    FROM (SELECT u.*, first_value(u.challenge) OVER once AS first, row_number() OVER once AS place
          FROM unnest(node_ids, challenges) WITH ORDINALITY AS u (node_id, challenge, i)
          WINDOW once AS (PARTITION BY u.node_id ORDER BY u.i)) AS given
    LEFT JOIN poet.registrations AS known
        ON known.round = for_round AND known.node_id = given.node_id;
    IF added > 0 THEN
        INSERT INTO poet.registrations (round, node_id, challenge)
        SELECT DISTINCT ON (u.node_id) for_round, u.node_id, u.challenge
        FROM unnest(node_ids, challenges) WITH ORDINALITY AS u (node_id, challenge, i)
        ORDER BY u.node_id, u.i
        ON CONFLICT DO NOTHING;
        UPDATE poet.rounds SET members = members + added WHERE round = for_round;
    END IF;
    RETURN outcomes;
END $$;

-- Opens a round and closes those before it. Returns how many members it has and, if one of those
-- before starts later, only in how many seconds.
CREATE FUNCTION poet.open_round(new_round bigint, new_starts timestamptz, OUT count bigint, OUT wait float8)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM poet.rounds WHERE round < new_round AND NOT closed ORDER BY round FOR UPDATE;
    SELECT extract(epoch FROM max(starts) - clock_timestamp()) INTO wait
    FROM poet.rounds WHERE round < new_round AND NOT closed;
    IF wait > 0 THEN
        RETURN;
    END IF;
    wait := NULL;
    UPDATE poet.rounds SET closed = true WHERE round < new_round AND NOT closed;
    INSERT INTO poet.rounds (round, starts) VALUES (new_round, new_starts) ON CONFLICT DO NOTHING;
    SELECT members INTO count FROM poet.rounds WHERE round = new_round;
END $$;
