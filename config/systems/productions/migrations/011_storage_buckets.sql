-- What the storage service keeps where, and whose it is. The service itself is next to the database.

-- The ten buckets of the storage service: the same for all organizations, to be read alone.
CREATE TABLE storage_buckets (
    id text PRIMARY KEY,
    is_public boolean NOT NULL DEFAULT false,
    file_size_limit bigint NOT NULL CHECK (file_size_limit > 0),
    allowed_mime_types text[] NOT NULL DEFAULT '{}'
);
INSERT INTO storage_buckets (id, is_public, file_size_limit, allowed_mime_types) VALUES
    ('avatars', true, 5242880, '{image/png,image/jpeg,image/webp}'),
    ('organization-logos', true, 5242880, '{image/png,image/jpeg,image/svg+xml}'),
    ('production-files', false, 524288000, '{}'),
    ('event-media', false, 524288000, '{image/png,image/jpeg,video/mp4}'),
    ('asset-images', false, 20971520, '{image/png,image/jpeg,image/webp}'),
    ('site-maps', false, 52428800, '{application/pdf,image/png,image/svg+xml}'),
    ('documents', false, 104857600, '{}'),
    ('receipts', false, 20971520, '{application/pdf,image/png,image/jpeg}'),
    ('marketplace-images', true, 20971520, '{image/png,image/jpeg,image/webp}'),
    ('exports', false, 1073741824, '{text/csv,application/pdf,application/json}');
GRANT SELECT ON storage_buckets TO productions_app;

CREATE TABLE storage_objects (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    bucket_id text NOT NULL REFERENCES storage_buckets (id),
    path text NOT NULL,
    size_bytes bigint NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),
    mime_type text,
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, bucket_id, path)
);
CALL platform.entity('storage_objects');

CREATE TABLE storage_quotas (
    id uuid PRIMARY KEY DEFAULT uuid_generate_v4(),
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    bucket_id text NOT NULL REFERENCES storage_buckets (id),
    max_bytes bigint NOT NULL CHECK (max_bytes >= 0),
    created_by uuid DEFAULT current_user_id() REFERENCES auth.users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    custom_fields jsonb NOT NULL DEFAULT '{}'::jsonb,
    UNIQUE (workspace_id, id),
    UNIQUE (workspace_id, bucket_id)
);
CALL platform.entity('storage_quotas');
