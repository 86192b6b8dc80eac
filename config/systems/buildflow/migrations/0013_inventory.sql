CREATE TABLE suppliers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL,
    email text,
    phone text,
    gstin text CHECK (is_gstin(gstin)),
    payment_days smallint NOT NULL DEFAULT 30 CHECK (payment_days >= 0),
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE warehouses (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    code text NOT NULL UNIQUE,
    name text NOT NULL,
    address text,
    manager_id uuid REFERENCES users (id) ON DELETE SET NULL,
    is_active boolean NOT NULL DEFAULT true
);
INSERT INTO warehouses (code, name) VALUES ('MAIN', 'Main store');

CREATE TABLE inventory_categories (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE
);
INSERT INTO inventory_categories (name) VALUES ('Cement'), ('Steel'), ('Bricks'), ('Electrical'), ('Plumbing');

CREATE TABLE inventory_items (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sku text NOT NULL UNIQUE,
    name text NOT NULL,
    category_id uuid REFERENCES inventory_categories (id),
    supplier_id uuid REFERENCES suppliers (id),
    hsn_sac_code text REFERENCES hsn_sac_codes (code),
    unit text NOT NULL DEFAULT 'piece',
    unit_cost numeric(14, 2) NOT NULL DEFAULT 0 CHECK (unit_cost >= 0),
    reorder_level numeric(14, 3) NOT NULL DEFAULT 0 CHECK (reorder_level >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE stock_levels (
    item_id uuid NOT NULL REFERENCES inventory_items (id) ON DELETE CASCADE,
    warehouse_id uuid NOT NULL REFERENCES warehouses (id),
    quantity numeric(14, 3) NOT NULL DEFAULT 0 CHECK (quantity >= 0),
    PRIMARY KEY (item_id, warehouse_id)
);

CREATE TABLE stock_movements (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    item_id uuid NOT NULL REFERENCES inventory_items (id),
    warehouse_id uuid NOT NULL REFERENCES warehouses (id),
    quantity numeric(14, 3) NOT NULL CHECK (quantity <> 0),
    reason text NOT NULL CHECK (reason IN ('purchase', 'issue', 'return', 'transfer', 'adjustment')),
    project_id uuid REFERENCES projects (id),
    moved_by uuid REFERENCES users (id) ON DELETE SET NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION apply_stock_movement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Added first: an INSERT of a negative quantity would fail its CHECK before it is found to be a conflict.
    UPDATE stock_levels SET quantity = quantity + NEW.quantity
    WHERE item_id = NEW.item_id AND warehouse_id = NEW.warehouse_id;
    IF NOT FOUND THEN
        INSERT INTO stock_levels (item_id, warehouse_id, quantity) VALUES (NEW.item_id, NEW.warehouse_id, NEW.quantity)
        ON CONFLICT (item_id, warehouse_id) DO UPDATE SET quantity = stock_levels.quantity + excluded.quantity;
    END IF;
    RETURN NEW;
END
$$;
