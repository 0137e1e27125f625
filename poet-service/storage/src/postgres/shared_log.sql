-- The log of a round that several servers share: what is known of it, and its entries in a table of its
-- own. That table goes as a whole when the proof is stored: removing a gigabyte of rows would leave as
-- much for vacuum. The role that servers run as may not create tables; so the functions run as their
-- owner, and that role needs no right but to use the schema.
CREATE TABLE poet.logs (
    round   bigint PRIMARY KEY,
    entries bigint NOT NULL DEFAULT 0,
    grown   timestamptz NOT NULL DEFAULT clock_timestamp(),
    worker  text                                   -- who handed in the newest entry
) WITH (fillfactor = 50);

-- How servers stand that work on a round or follow.
CREATE TABLE poet.servers (
    name            text PRIMARY KEY,
    seen            timestamptz NOT NULL,
    round           bigint NOT NULL,
    works           boolean NOT NULL,
    standby         boolean NOT NULL,
    entries         bigint NOT NULL,
    leaves_a_second float8 NOT NULL,
    leaves          bigint                         -- at the end of the round, of a server that worked
) WITH (fillfactor = 50);

-- Makes the log of a round. Returns false, and makes none, if the round has a proof.
CREATE FUNCTION poet.make_log(for_round bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- One after the other, and not while a proof is being stored.
    PERFORM FROM poet.rounds WHERE round = for_round FOR UPDATE;
    IF NOT FOUND OR EXISTS (SELECT FROM poet.proofs WHERE round = for_round) THEN
        RETURN false;
    END IF;
    INSERT INTO poet.logs (round) VALUES (for_round) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        EXECUTE format('CREATE TABLE poet.log_%s (first_entry bigint PRIMARY KEY, entries bytea NOT NULL)',
                       for_round);
        -- Hashes cannot be compressed.
        EXECUTE format('ALTER TABLE poet.log_%s ALTER COLUMN entries SET STORAGE EXTERNAL', for_round);
    END IF;
    RETURN true;
END $$;

-- Removes the log of a round that has a proof.
CREATE FUNCTION poet.drop_log(for_round bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM poet.rounds WHERE round = for_round FOR UPDATE;
    IF EXISTS (SELECT FROM poet.proofs WHERE round = for_round) THEN
        DELETE FROM poet.logs WHERE round = for_round;
        EXECUTE format('DROP TABLE IF EXISTS poet.log_%s', for_round);
    END IF;
END $$;

-- Reads entries, as many as there are of those.
CREATE FUNCTION poet.read_log(for_round bigint, first bigint, count bigint) RETURNS bytea
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    start bigint;
    bytes bytea;
BEGIN
    EXECUTE format(
        'SELECT min(first_entry), string_agg(entries, ''''::bytea ORDER BY first_entry)
         FROM poet.log_%1$s
         WHERE first_entry < $1 + $2 AND first_entry >=
               (SELECT max(first_entry) FROM poet.log_%1$s WHERE first_entry <= $1)', for_round)
    INTO start, bytes USING first, count;
    RETURN coalesce(substr(bytes, ((first - start) * 32 + 1)::integer, (count * 32)::integer), '');
END $$;

-- Appends entries, the first of which has number `first`; those that are there must be the same. Returns
-- how many entries the log has then and, if something differs, the first entry that does. Entries that
-- would leave a gap are not appended. Returns nulls if the round has a proof.
CREATE FUNCTION poet.append_to_log(
    for_round bigint, first bigint, given bytea, me text, OUT now_entries bigint, OUT differs bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    count  bigint := length(given) / 32;
    common bigint;
    stored bytea;
BEGIN
    -- What is lost in a crash is handed in again: it is in the log of a server.
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT entries INTO now_entries FROM poet.logs WHERE round = for_round FOR UPDATE;
    IF NOT FOUND THEN
        IF NOT poet.make_log(for_round) THEN
            RETURN;
        END IF;
        SELECT entries INTO now_entries FROM poet.logs WHERE round = for_round FOR UPDATE;
    END IF;
    IF first > now_entries THEN
        RETURN;
    END IF;
    common := least(now_entries - first, count);
    IF common > 0 THEN
        stored := poet.read_log(for_round, first, common);
        IF stored <> substr(given, 1, (common * 32)::integer) THEN
            FOR i IN 0..common - 1 LOOP
                IF substr(stored, (i * 32 + 1)::integer, 32) <> substr(given, (i * 32 + 1)::integer, 32) THEN
                    differs := first + i;
                    RETURN;
                END IF;
            END LOOP;
        END IF;
    END IF;
    IF count > common THEN
        EXECUTE format('INSERT INTO poet.log_%s VALUES ($1, $2)', for_round)
        USING first + common, substr(given, (common * 32 + 1)::integer);
        now_entries := first + count;
        UPDATE poet.logs SET entries = now_entries, grown = clock_timestamp(), worker = me
        WHERE round = for_round;
    END IF;
END $$;

-- Replaces the end of a log from an entry on that was proven wrong. If another one is there, nothing
-- changes. Returns how many entries the log has then.
CREATE FUNCTION poet.replace_in_log(for_round bigint, first bigint, wrong bytea, given bytea, me text)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    have bigint;
BEGIN
    SELECT entries INTO have FROM poet.logs WHERE round = for_round FOR UPDATE;
    IF NOT FOUND OR poet.read_log(for_round, first, 1) <> wrong THEN
        RETURN have;
    END IF;
    EXECUTE format('DELETE FROM poet.log_%s WHERE first_entry >= $1', for_round) USING first;
    EXECUTE format('UPDATE poet.log_%1$s SET entries = substr(entries, 1, (($1 - first_entry) * 32)::integer)
                    WHERE first_entry = (SELECT max(first_entry) FROM poet.log_%1$s)', for_round) USING first;
    EXECUTE format('INSERT INTO poet.log_%s VALUES ($1, $2)', for_round) USING first, given;
    have := first + length(given) / 32;
    UPDATE poet.logs SET entries = have, grown = clock_timestamp(), worker = me WHERE round = for_round;
    RETURN have;
END $$;

-- Says how a server stands with a round, if `me` is given, and how the log and all servers do that were
-- seen lately. Returns a row for each server, at least one.
CREATE FUNCTION poet.look_at_log(
    for_round bigint, me text, my_works boolean, my_standby boolean, my_entries bigint, my_rate float8,
    my_leaves bigint
) RETURNS TABLE (
    published boolean, log_entries bigint, quiet float8, last_worker text,
    server text, server_seen float8, server_works boolean, server_standby boolean,
    server_entries bigint, server_rate float8, server_leaves bigint
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF me IS NOT NULL THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        IF NOT EXISTS (SELECT FROM poet.logs WHERE round = for_round) THEN
            PERFORM poet.make_log(for_round);
        END IF;
        INSERT INTO poet.servers AS old
            (name, seen, round, works, standby, entries, leaves_a_second, leaves)
        VALUES (me, clock_timestamp(), for_round, my_works, my_standby, my_entries, my_rate, my_leaves)
        ON CONFLICT (name) DO UPDATE
        SET seen = excluded.seen, round = excluded.round, works = excluded.works,
            standby = excluded.standby, entries = excluded.entries,
            leaves_a_second = excluded.leaves_a_second, leaves = excluded.leaves;
        DELETE FROM poet.servers WHERE seen < clock_timestamp() - interval '1 day';
    END IF;
    RETURN QUERY
    SELECT EXISTS (SELECT FROM poet.proofs WHERE proofs.round = for_round),
           coalesce(logs.entries, 0),
           greatest(extract(epoch FROM clock_timestamp() - logs.grown), 0)::float8, logs.worker,
           servers.name, greatest(extract(epoch FROM clock_timestamp() - servers.seen), 0)::float8,
           servers.works, servers.standby, servers.entries, servers.leaves_a_second, servers.leaves
    FROM (SELECT for_round AS number) AS one
    LEFT JOIN poet.logs ON logs.round = one.number
    LEFT JOIN poet.servers ON servers.round = one.number
        AND servers.seen > clock_timestamp() - interval '1 minute'
    ORDER BY servers.name;
END $$;
