CREATE TABLE gst_settings (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    gstin text NOT NULL UNIQUE CHECK (is_gstin(gstin)),
    legal_name text NOT NULL,
    state_code char(2) NOT NULL,
    filing_frequency text NOT NULL DEFAULT 'monthly' CHECK (filing_frequency IN ('monthly', 'quarterly')),
    is_composition boolean NOT NULL DEFAULT false,
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE hsn_sac_codes (
    code text PRIMARY KEY CHECK (code ~ '^[0-9]{4,8}$'),
    kind text NOT NULL CHECK (kind IN ('hsn', 'sac')),
    description text NOT NULL,
    gst_rate numeric(5, 2) NOT NULL CHECK (gst_rate BETWEEN 0 AND 100)
);
INSERT INTO hsn_sac_codes (code, kind, description, gst_rate) VALUES
    ('2523', 'hsn', 'Cement', 28), ('7214', 'hsn', 'Bars of iron or steel', 18), ('6904', 'hsn', 'Building bricks', 12),
    ('9954', 'sac', 'Construction services', 18), ('9983', 'sac', 'Professional services', 18);

CREATE TABLE gst_returns (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    settings_id uuid NOT NULL REFERENCES gst_settings (id),
    return_type text NOT NULL CHECK (return_type IN ('GSTR1', 'GSTR3B', 'GSTR9')),
    period date NOT NULL,
    taxable_value numeric(16, 2) NOT NULL DEFAULT 0,
    cgst numeric(16, 2) NOT NULL DEFAULT 0,
    sgst numeric(16, 2) NOT NULL DEFAULT 0,
    igst numeric(16, 2) NOT NULL DEFAULT 0,
    status text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'filed')),
    filed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (settings_id, return_type, period)
);

CREATE TABLE gst_transactions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    return_id uuid REFERENCES gst_returns (id),
    invoice_id uuid REFERENCES invoices (id),
    hsn_sac_code text REFERENCES hsn_sac_codes (code),
    taxable_value numeric(16, 2) NOT NULL,
    tax_amount numeric(16, 2) NOT NULL CHECK (tax_amount >= 0)
);

ALTER TABLE invoice_items ADD FOREIGN KEY (hsn_sac_code) REFERENCES hsn_sac_codes (code);
