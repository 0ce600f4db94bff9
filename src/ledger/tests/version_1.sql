-- A file as the first version wrote it.
PRAGMA application_id = 1735422584;
PRAGMA user_version = 1;
CREATE TABLE usages (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    user TEXT NOT NULL,
    provider TEXT NOT NULL,
    operation TEXT NOT NULL,
    protocol TEXT NOT NULL,
    model TEXT NOT NULL,
    model_served TEXT NOT NULL,
    limit_name TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_input_tokens INTEGER NOT NULL,
    cache_creation_input_tokens_5min INTEGER NOT NULL,
    cache_creation_input_tokens_1h INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    input_audio_tokens INTEGER NOT NULL,
    output_audio_tokens INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    usage_source TEXT NOT NULL,
    service_tier TEXT NOT NULL,
    cost INTEGER NOT NULL,
    price TEXT,
    status INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    first_byte_ms INTEGER NOT NULL,
    total_ms INTEGER NOT NULL,
    bytes_in INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    digest BLOB NOT NULL
) STRICT;
CREATE INDEX usages_at ON usages (at);
CREATE TABLE spendings (
    user TEXT NOT NULL,
    day INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    PRIMARY KEY (user, day)
) STRICT, WITHOUT ROWID;
CREATE TABLE first_seen (
    user TEXT PRIMARY KEY,
    cost_used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO usages VALUES (1, 'abcdef012345670000000000', 1795392000001, 'alice', 'p', 'chat.completions',
    'openai_chat', 'p/gpt-1', 'gpt-1', 'gpt-1', 0, 0, 0, 0, 0, 0, 0, 0, 0, 'upstream', 'default', 3,
    '{"price_each_call":"0.000000000003"}', 200, 'ok', 1, 5, 9, 10, 20, x'00');
INSERT INTO usages VALUES (2, 'abcdef012345670000000001', 1795392000001, 'alice', 'p', 'chat.completions',
    'openai_chat', 'p/gpt-1', 'gpt-1', 'gpt-1', 1, 0, 0, 0, 0, 0, 0, 0, 0, 'upstream', 'default', 3,
    '{"price_each_call":"0.000000000003"}', 200, 'ok', 1, 5, 9, 10, 20, x'00');
INSERT INTO spendings VALUES ('alice', 20780, 6);
