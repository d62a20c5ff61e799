CREATE TYPE payment_status AS ENUM ('INITIATED', 'APPROVED', 'COMPLETED', 'FAILED');
CREATE TABLE payments (
    id bigserial PRIMARY KEY,
    amount numeric(18, 2) NOT NULL CHECK (amount >= 0),
    currency char(3) NOT NULL,
    status payment_status NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE audit_logs (
    id bigserial PRIMARY KEY,
    payment_id bigint NOT NULL REFERENCES payments ON DELETE CASCADE,
    action text NOT NULL,
    actor text NOT NULL,
    timestamp timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX payments_created_at ON payments (created_at);
CREATE INDEX audit_logs_payment ON audit_logs (payment_id);
CREATE INDEX audit_logs_timestamp ON audit_logs (timestamp);

INSERT INTO payments (amount, currency, status, created_at, updated_at)
SELECT n % 1000, 'EUR', CASE WHEN n % 40 = 0 THEN 'FAILED' ELSE 'COMPLETED' END::payment_status,
    now() - (:rows - n) * interval '1 minute', now() - (:rows - n) * interval '1 minute'
FROM generate_series(1, :rows) AS n;
INSERT INTO audit_logs (payment_id, action, actor, timestamp)
SELECT n, 'payment.completed', 'operator-' || n % 7, now() - (:rows - n) * interval '1 minute'
FROM generate_series(1, :rows) AS n;
