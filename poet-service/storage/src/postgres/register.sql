-- Registers nodes in their order. Returns a letter for each: n (new), a (already), c (conflict),
-- f (full); null if the round does not take registrations.
CREATE OR REPLACE FUNCTION poet.register(
    for_round bigint, max_members bigint, node_ids bytea[], challenges bytea[]
) RETURNS text LANGUAGE plpgsql
-- Its plans are made when a round has few members, and kept when it has millions.
SET enable_seqscan = off AS $$
DECLARE
    count    bigint;
    new      bytea[];
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
    -- Of several registrations of a node, the first one counts.
    WITH inserted AS (
        INSERT INTO poet.registrations (round, node_id, challenge)
        SELECT for_round, given.node_id, given.challenge
        FROM unnest(node_ids, challenges) WITH ORDINALITY AS given (node_id, challenge, i)
        ORDER BY given.i
        ON CONFLICT DO NOTHING
        RETURNING node_id
    )
    SELECT coalesce(array_agg(node_id), '{}') INTO new FROM inserted;
    IF cardinality(new) > 0 THEN
        UPDATE poet.rounds SET members = members + cardinality(new) WHERE round = for_round;
    END IF;
    IF cardinality(new) = cardinality(node_ids) THEN
        RETURN repeat('n', cardinality(new));
    END IF;
    SELECT string_agg(
               CASE WHEN given.challenge <> (SELECT known.challenge FROM poet.registrations AS known
                                             WHERE known.round = for_round
                                               AND known.node_id = given.node_id) THEN 'c'
                    WHEN inserted.node_id IS NOT NULL AND given.place = 1 THEN 'n'
                    ELSE 'a' END,
               '' ORDER BY given.i)
    INTO outcomes
    FROM (SELECT u.*, row_number() OVER (PARTITION BY u.node_id ORDER BY u.i) AS place
          FROM unnest(node_ids, challenges) WITH ORDINALITY AS u (node_id, challenge, i)) AS given
    LEFT JOIN unnest(new) AS inserted (node_id) ON inserted.node_id = given.node_id;
    RETURN outcomes;
END $$;
