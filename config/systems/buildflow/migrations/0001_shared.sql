-- The extension and the functions that the other modules use.
CREATE EXTENSION IF NOT EXISTS pg_trgm;

CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

CREATE FUNCTION is_gstin(value text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT value ~ '^[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][0-9A-Z]Z[0-9A-Z]$' $$;

CREATE FUNCTION financial_year(day date) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT to_char(y, 'FM0000') || '-' || to_char((y + 1) % 100, 'FM00')
   FROM (SELECT extract(year FROM day)::int - CASE WHEN extract(month FROM day) < 4 THEN 1 ELSE 0 END AS y) AS begun $$;

CREATE TABLE document_sequences (
    kind text NOT NULL,
    year text NOT NULL,
    last_number bigint NOT NULL DEFAULT 0 CHECK (last_number >= 0),
    PRIMARY KEY (kind, year)
);

CREATE FUNCTION next_number(wanted text, day date) RETURNS text LANGUAGE sql AS $$
    INSERT INTO document_sequences (kind, year, last_number) VALUES (wanted, financial_year(day), 1)
    ON CONFLICT (kind, year) DO UPDATE SET last_number = document_sequences.last_number + 1
    RETURNING upper(kind) || '/' || year || '/' || lpad(last_number::text, 5, '0')
$$;
