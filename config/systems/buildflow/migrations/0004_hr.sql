CREATE TABLE employee_details (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL UNIQUE REFERENCES users (id) ON DELETE CASCADE,
    employee_code text NOT NULL UNIQUE,
    department_id uuid REFERENCES departments (id) ON DELETE SET NULL,
    employment_type text NOT NULL DEFAULT 'full_time'
        CHECK (employment_type IN ('full_time', 'part_time', 'contract', 'intern')),
    designation text,
    joined_on date NOT NULL DEFAULT current_date,
    left_on date CHECK (left_on >= joined_on),
    monthly_salary numeric(14, 2) NOT NULL DEFAULT 0 CHECK (monthly_salary >= 0),
    pan text CHECK (pan ~ '^[A-Z]{5}[0-9]{4}[A-Z]$'),
    bank_account text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE shifts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    starts_at time NOT NULL,
    ends_at time NOT NULL,
    grace_minutes integer NOT NULL DEFAULT 15 CHECK (grace_minutes >= 0)
);
INSERT INTO shifts (name, starts_at, ends_at) VALUES ('Day', '09:00', '18:00'), ('Site', '07:00', '16:00');

CREATE TABLE attendance (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    employee_id uuid NOT NULL REFERENCES employee_details (id) ON DELETE CASCADE,
    shift_id uuid REFERENCES shifts (id),
    day date NOT NULL,
    check_in timestamptz,
    check_out timestamptz CHECK (check_out >= check_in),
    hours numeric(5, 2) GENERATED ALWAYS AS (round(extract(epoch FROM check_out - check_in) / 3600, 2)) STORED,
    status text NOT NULL DEFAULT 'present' CHECK (status IN ('present', 'absent', 'half_day', 'leave', 'holiday')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (employee_id, day)
);

CREATE TABLE leave_types (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    days_per_year numeric(5, 1) NOT NULL CHECK (days_per_year >= 0),
    is_paid boolean NOT NULL DEFAULT true
);
INSERT INTO leave_types (name, days_per_year, is_paid) VALUES ('Casual', 12, true), ('Sick', 12, true), ('Unpaid', 365, false);

CREATE TABLE leave_requests (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    employee_id uuid NOT NULL REFERENCES employee_details (id) ON DELETE CASCADE,
    leave_type_id uuid NOT NULL REFERENCES leave_types (id),
    start_date date NOT NULL,
    end_date date NOT NULL CHECK (end_date >= start_date),
    days integer GENERATED ALWAYS AS (end_date - start_date + 1) STORED,
    reason text,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected', 'cancelled')),
    decided_by uuid REFERENCES users (id) ON DELETE SET NULL,
    decided_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
