CREATE TABLE purchase_requests (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    request_number text NOT NULL UNIQUE,
    project_id uuid REFERENCES projects (id),
    requested_by uuid REFERENCES users (id) ON DELETE SET NULL,
    needed_by date,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'ordered')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE purchase_request_items (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    request_id uuid NOT NULL REFERENCES purchase_requests (id) ON DELETE CASCADE,
    item_id uuid NOT NULL REFERENCES inventory_items (id),
    quantity numeric(14, 3) NOT NULL CHECK (quantity > 0)
);

CREATE TABLE purchase_orders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    order_number text NOT NULL UNIQUE,
    supplier_id uuid NOT NULL REFERENCES suppliers (id),
    request_id uuid REFERENCES purchase_requests (id),
    warehouse_id uuid REFERENCES warehouses (id),
    order_date date NOT NULL DEFAULT current_date,
    expected_on date CHECK (expected_on >= order_date),
    total_amount numeric(16, 2) NOT NULL DEFAULT 0 CHECK (total_amount >= 0),
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'sent', 'received', 'cancelled')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE purchase_order_items (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id uuid NOT NULL REFERENCES purchase_orders (id) ON DELETE CASCADE,
    item_id uuid NOT NULL REFERENCES inventory_items (id),
    quantity numeric(14, 3) NOT NULL CHECK (quantity > 0),
    unit_price numeric(14, 2) NOT NULL CHECK (unit_price >= 0),
    amount numeric(16, 2) GENERATED ALWAYS AS (round(quantity * unit_price, 2)) STORED
);

CREATE TABLE goods_receipts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id uuid NOT NULL REFERENCES purchase_orders (id),
    received_by uuid REFERENCES users (id) ON DELETE SET NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    note text
);
