CREATE TABLE orders (
    id bigserial PRIMARY KEY,
    tenant_id uuid NOT NULL,
    status text NOT NULL DEFAULT 'placed' CHECK (status IN ('placed', 'baking', 'delivered', 'cancelled')),
    amount numeric(12, 2) NOT NULL CHECK (amount >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE order_items (
    order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    product text NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, product)
);
CREATE INDEX orders_created_at ON orders (created_at);
CREATE INDEX order_items_product ON order_items USING gin (product gin_trgm_ops);
CREATE VIEW orders_today AS SELECT * FROM orders WHERE created_at >= date_trunc('day', now());

INSERT INTO orders (tenant_id, status, amount, created_at)
SELECT md5((n % 10)::text)::uuid, 'delivered', n % 100, now() - (:rows - n) * interval '30 seconds'
FROM generate_series(1, :rows) AS n;
INSERT INTO order_items (order_id, product, quantity)
SELECT n, product, 1 + n % 5 FROM generate_series(1, :rows) AS n, unnest(ARRAY['rye bread', 'croissant']) AS product;
