-- Something to look at: three users, who log in by name only.

INSERT INTO list (id, title) VALUES
    ('00000000-0000-4000-8000-000000000001', 'Groceries'),
    ('00000000-0000-4000-8000-000000000002', 'Trip to the lake'),
    ('00000000-0000-4000-8000-000000000003', 'Reading');

INSERT INTO member (list_id, name) VALUES
    ('00000000-0000-4000-8000-000000000001', 'Ada'),
    ('00000000-0000-4000-8000-000000000001', 'Ben'),
    ('00000000-0000-4000-8000-000000000002', 'Ada'),
    ('00000000-0000-4000-8000-000000000002', 'Ben'),
    ('00000000-0000-4000-8000-000000000002', 'Cleo'),
    ('00000000-0000-4000-8000-000000000003', 'Ada');

INSERT INTO todo (id, list_id, title, done, made)
SELECT gen_random_uuid(), ('00000000-0000-4000-8000-00000000000' || list)::uuid, title, done, now() + n * interval '1 ms'
FROM (VALUES
    (1, 1, 'Sourdough bread', false), (2, 1, 'Tomatoes, the small ones', false), (3, 1, 'Olive oil', true),
    (4, 1, 'Coffee beans', false), (5, 1, 'Oat milk', true),
    (6, 2, 'Book the cabin', true), (7, 2, 'Ask Cleo about the canoe', false), (8, 2, 'Pack the first aid kit', false),
    (9, 2, 'Download the map', false),
    (10, 3, 'A Pattern Language', false), (11, 3, 'The Design of Everyday Things', true)
) AS t(n, list, title, done);
