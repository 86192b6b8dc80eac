CREATE TABLE document_folders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    parent_id uuid REFERENCES document_folders (id) ON DELETE CASCADE CHECK (parent_id <> id),
    UNIQUE NULLS NOT DISTINCT (parent_id, name)
);

CREATE TABLE documents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    folder_id uuid REFERENCES document_folders (id) ON DELETE SET NULL,
    project_id uuid REFERENCES projects (id) ON DELETE CASCADE,
    name text NOT NULL,
    storage_path text NOT NULL UNIQUE,
    size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
    content_type text NOT NULL,
    uploaded_by uuid REFERENCES users (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
