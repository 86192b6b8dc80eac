-- Venues, offices, warehouses, and what is at them.

CREATE TABLE locations (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name text NOT NULL,
    description text,
    kind text NOT NULL DEFAULT 'venue' CHECK (kind IN ('venue', 'office', 'warehouse', 'studio')),
    address text,
    city text,
    country char(2),
    latitude numeric(9, 6),
    longitude numeric(9, 6),
    capacity integer,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id)
);

ALTER TABLE productions
    ADD FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE SET NULL (location_id);
ALTER TABLE events
    ADD FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE SET NULL (location_id);
ALTER TABLE bookings
    ADD FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE SET NULL (location_id);
ALTER TABLE incidents
    ADD FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE SET NULL (location_id);
ALTER TABLE assets
    ADD FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE SET NULL (location_id);
CALL platform.entity('locations');

CREATE INDEX idx_locations_search ON locations USING GIN (to_tsvector('english', name || ' ' || COALESCE(description, '')));

CREATE TABLE location_spaces (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    location_id uuid NOT NULL,
    name text NOT NULL,
    capacity integer,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('location_spaces');

CREATE TABLE location_contacts (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    location_id uuid NOT NULL,
    name text NOT NULL,
    phone text,
    email text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('location_contacts');

CREATE TABLE site_maps (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    location_id uuid NOT NULL,
    name text NOT NULL,
    file_url text,
    version integer NOT NULL DEFAULT 1,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('site_maps');

CREATE TABLE location_access (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    location_id uuid NOT NULL,
    name text NOT NULL,
    kind text NOT NULL DEFAULT 'door',
    instructions text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('location_access');

CREATE TABLE location_utilities (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    location_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('power', 'water', 'gas', 'internet', 'rigging', 'other')),
    description text,
    capacity text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    FOREIGN KEY (workspace_id, location_id) REFERENCES locations (workspace_id, id) ON DELETE CASCADE
);
CALL platform.entity('location_utilities');
