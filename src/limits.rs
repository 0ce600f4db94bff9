//! Every ceiling of the program that is not a setting, and the defaults of those that are.
//!
//! A resource without a line here is a bug: see "Bounds" in `ARCHITECTURE.md`. Sizes are bytes,
//! `_ms` are milliseconds, `_count` are counts.

/// Request line of a downstream request; longer is 414.
pub const TARGET_BYTES_MAX: usize = 16 * 1024;
/// Default of `limits.head_bytes_max`: request line and headers together; longer is 431.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Header fields of one request; more is 431.
pub const HEADER_COUNT_MAX: usize = 128;
/// Default of `limits.body_bytes_max`: a request body; longer is 413.
pub const BODY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Default of `limits.upload_bytes_max`.
pub const UPLOAD_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Default of `limits.held_bytes_max`: all bodies and events held at once; past it 503.
pub const HELD_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Default of `limits.event_bytes_max`: a longer stream event ends its stream with an error.
pub const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Default of `limits.connections_max`.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Default of `limits.in_flight_max`.
pub const IN_FLIGHT_MAX: usize = 4_096;
/// All chunk extensions of one body, and all its trailers, each.
pub const CHUNK_EXTRA_BYTES_MAX: usize = 16 * 1024;
/// Nesting of a JSON document that we scan; deeper is refused with 400.
pub const JSON_DEPTH_MAX: usize = 128;
/// A model name, as sent and as served.
pub const MODEL_BYTES_MAX: usize = 256;
/// Names of the model in one request body (`batchEmbedContents`); more is 400. Gemini takes 100.
pub const BODY_MODELS_MAX: usize = 1_024;
/// Different names of models in one batch; more is 400.
pub const BATCH_MODELS_MAX: usize = 256;
/// An upstream's response head; longer is 502.
pub const UPSTREAM_HEAD_BYTES_MAX: usize = 16 * 1024;
/// A reply up to this size keeps an exact `content-length` although its model name was restored.
pub const REPLY_HELD_BYTES_MAX: usize = 64 * 1024;
/// A stream's event buffer that grew beyond this is freed after the event.
pub const EVENT_KEPT_BYTES_MAX: usize = 16 * 1024;
/// Read and write buffer of a relayed reply.
pub const RELAY_BYTES: usize = 8 * 1024;
/// A body without a model up to this size is held whole; a longer one passes as it comes.
pub const NAMELESS_HELD_BYTES_MAX: u64 = 256 * 1024;
/// A form is held so far while its model was not found; what is longer is laid aside on disk.
pub const FORM_HELD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a form that go to the disk, or come from it, at once.
pub const SPOOL_PIECE_BYTES: usize = 256 * 1024;
/// Forms on disk at once, each as long as an upload at most; past it 503.
pub const SPOOLS_MAX: usize = 16;
/// What is laid aside may take longer than [`BODY_MS_MAX`] while so much of it has come for each
/// millisecond beyond.
pub const SPOOLED_BYTES_EACH_MS: u64 = 64;
/// Replies that are read on at once although their callers have left; past it a call is given up.
pub const DRAINS_MAX: i64 = 1_024;
/// So much of a reply is read on after its caller has left.
pub const ABORT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Threads that unpack bodies, one each at a time.
pub const UNPACKERS: usize = 2;
/// An unread request body up to this size is drained so that the connection can be kept.
pub const DRAIN_BYTES_MAX: usize = 64 * 1024;

/// From the first byte of a request head to its last; then 408.
pub const HEAD_MS_MAX: u64 = 10_000;
/// Pause between two reads of a request body; then 408.
pub const BODY_PAUSE_MS_MAX: u64 = 30_000;
/// A request body in all; then 408.
pub const BODY_MS_MAX: u64 = 300_000;
/// No progress while writing to a downstream that does not read.
pub const WRITE_PAUSE_MS_MAX: u64 = 60_000;
/// Keep-alive silence of a downstream connection.
pub const KEEP_ALIVE_MS_MAX: u64 = 75_000;
/// The same while connections are refused since there are too many.
pub const KEEP_ALIVE_PRESSED_MS_MAX: u64 = 5_000;
/// Keep-alive silence after which a connection is parked without a coroutine.
pub const PARK_AFTER_MS: u64 = 2_000;
/// Draining an unread body, or lingering after a refusal.
pub const DRAIN_MS_MAX: u64 = 1_000;
/// Silence of both ends of a WebSocket; then it is closed. Vendors end sessions within an hour.
pub const TUNNEL_IDLE_MS_MAX: u64 = 900_000;
/// From the first close of a WebSocket to its end, whatever the other end says.
pub const TUNNEL_CLOSE_MS_MAX: u64 = 2_000;
/// Answers of one WebSocket that were asked for and have not ended; one more is refused.
pub const TURNS_MAX: usize = 64;
/// Of a hundred calls of one pace so many are hedged at most.
pub const HEDGE_PERCENT_MAX: u32 = 5;
/// So many calls of one pace are hedged one after the other at most.
pub const HEDGES_IN_A_ROW: u32 = 10;
/// Default of `hedge_ms_min`.
pub const HEDGE_MS_MIN: u64 = 100;
/// How often a call is looked after that has another one beside it. One of the lengths to which
/// waits are cut.
pub const HEDGE_POLL_MS: u64 = 10;
/// Second calls under way at once, of all providers; past it a silent call stays alone.
pub const RIVALS_MAX: i64 = 256;
/// How often a second call looks whether it was given up.
pub const GIVEN_UP_POLL_MS: u64 = 50;
/// Beginnings of answers from which on their pace counts as known.
pub const PACE_SEEN_MIN: u64 = 100;
/// Paces that are known: two for each model of a provider that hedges. Of others none is.
pub const PACES_MAX: usize = 1_024;
/// How often the operator is told at most that a call was stopped by a fence.
pub const FENCE_TOLD_MS: u64 = 10_000;
/// How often a coroutine that waits for an upstream looks whether its downstream is still there.
pub const HANG_UP_POLL_MS: u64 = 250;
/// Default of `keepalive_ms`: a silent stream is kept alive towards its downstream that often.
pub const KEEPALIVE_MS: u64 = 15_000;
/// Age of an idle upstream connection.
pub const POOL_IDLE_MS_MAX: u64 = 30_000;
/// Idle upstream connections of one worker to one origin.
pub const POOL_PER_ORIGIN_MAX: usize = 512;
/// A request on a reused connection may be repeated once when the connection died, without a byte
/// of an answer, within this time.
pub const STALE_RETRY_MS_MAX: u64 = 250;

/// Default of `limits.attempts_max`: credentials and targets that one request is sent to.
pub const ATTEMPTS_MAX: usize = 4;
/// The most that `limits.attempts_max` may be.
pub const ATTEMPTS_MAX_MAX: usize = 16;
/// What one alias can stand for.
pub const TARGETS_MAX: usize = 16;
/// No further attempt begins later than this after the first, unless `timeouts.total_ms` says so.
pub const RETRY_MS_MAX: u64 = 120_000;
/// An upstream's error up to this size is read whole, so that it can be kept while another
/// credential is asked; a longer one is passed on at once.
pub const ERROR_HELD_BYTES_MAX: usize = 64 * 1024;
/// An upstream's error is read for so long; then only what came of it counts.
pub const REFUSAL_MS_MAX: u64 = 3_000;
/// A credential that an upstream failed on rests so long at first, and twice as long each time.
pub const BACKOFF_MS: i64 = 1_000;
/// The ceiling of that.
pub const BACKOFF_MS_MAX: i64 = 60_000;
/// The shortest rest that an upstream can ask for.
pub const COOLDOWN_MS_MIN: i64 = 250;
/// The longest rest of a credential, whatever an upstream asks for; then one call is tried.
pub const COOLDOWN_MS_MAX: i64 = 600_000;
/// Refusals of a credential that are the requests' fault, one after the other; what comes then is
/// its own until it has served.
pub const PARDONS_MAX: u32 = 3;
/// Open circuits of one credential: its own, and those of its models.
pub const CIRCUITS_MAX: usize = 64;
/// Beginnings of prompts whose credentials are remembered, for `cache_affinity`.
pub const AFFINITY_MAX: usize = 4_096;
/// How long one is, as long as vendors keep their caches.
pub const AFFINITY_MS_MAX: i64 = 300_000;
/// Default of `limits.recorder_bytes`: so much of each stream is remembered while it goes on.
pub const RECORDER_BYTES: usize = 4 * 1024;
/// The most that it may be.
pub const RECORDER_BYTES_MAX: usize = 64 * 1024;
/// Pieces that are told apart of one stream; of those that came before nothing is kept.
pub const RECORDER_PIECES_MAX: usize = 128;
/// Streams that ended badly and are kept; the oldest makes room.
pub const RECORDINGS_MAX: usize = 64;
/// Credentials and providers whose health is kept; of further ones nothing is.
pub const SEATS_MAX: usize = 65_536;

/// A call of the gateway's own, for a token: from its beginning to its reply's end. Whoever waits
/// for somebody else's token waits as long.
pub const FETCH_MS_MAX: u64 = 15_000;
/// The file of a service account; what is longer is read so far only, and is none.
pub const ACCOUNT_BYTES_MAX: u64 = 64 * 1024;
/// The reply of a token endpoint; longer is none.
pub const TOKEN_REPLY_BYTES_MAX: usize = 64 * 1024;
/// An access token.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How long an access token counts, whatever its endpoint says.
pub const TOKEN_LIFE_S_MAX: u64 = 86_400;
/// A token is renewed so long before its end, or in the last three quarters of a short life.
pub const TOKEN_AHEAD_MS: u64 = 300_000;
/// A token is not used in the last of its life, or in its last tenth.
pub const TOKEN_MARGIN_MS: u64 = 30_000;
/// After a refusal no token is asked for.
pub const TOKEN_RETRY_MS: u64 = 5_000;
/// An upstream's 401 makes an account's token be dropped once in this time.
pub const TOKEN_REFUSED_MS: u64 = 60_000;

/// A page of an upstream's list of models; longer is none.
pub const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Pages of such a list; what follows is left out.
pub const LIST_PAGES_MAX: usize = 50;
/// Models of such a list; what follows is left out.
pub const LIST_MODELS_MAX: usize = 5_000;
/// What a page asks for the next one with.
pub const LIST_CURSOR_BYTES_MAX: usize = 2_048;
/// Credentials with which one list is tried.
pub const LIST_CREDENTIALS_MAX: usize = 3;
/// Questions of administrators to upstreams that wait at once; past it 503.
pub const QUESTIONS_MAX: usize = 8;
/// What is shown of an upstream's error that a test call met.
pub const TRIAL_BYTES_MAX: usize = 2_048;
/// How old a list becomes before it is fetched again.
pub const LIST_LIFE_MS: u64 = 600_000;
/// After a failure the list is not tried again before this.
pub const LIST_RETRY_MS: u64 = 30_000;
/// Tokens of a model's prompt or answer, as anybody may declare them.
pub const MODEL_TOKENS_MAX: u64 = 1_000_000_000;

/// Usage rows that wait for the disk, or whose requests are under way; past it 503.
pub const LEDGER_ROWS_MAX: usize = 16_384;
/// A request body of the administration interface; longer is 413.
pub const API_BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Items of one answer of a list.
pub const API_ITEMS_MAX: usize = 1_000;
/// Rows that may be made through the administration interface; one more is 409.
pub const API_ROWS_MAX: usize = 100_000;
/// Rows of the file that a reload tells to have changed; more are counted.
pub const DIFFERENCE_ROWS_MAX: usize = 200;
/// Refused requests that are kept for those who ask why; the oldest makes room.
pub const REFUSALS_KEPT_MAX: usize = 1_000;
/// Attempts that came to nothing that are kept likewise.
pub const STUMBLES_KEPT_MAX: usize = 1_000;
/// Characters of a refusal's sentence that are kept with it.
pub const REFUSAL_CHARS_MAX: usize = 1_000;
/// Open sessions of one user; his oldest makes room.
pub const USER_SESSIONS_MAX: usize = 16;
/// Open sessions of all; the oldest of who has most of them makes room.
pub const SESSIONS_MAX: usize = 4_096;
/// Keys of a user beside the file's, beyond which he makes no more himself; 409.
pub const OWN_KEYS_MAX: usize = 64;
/// Default of `limits.key_guesses_max`.
pub const KEY_GUESSES_MAX: u64 = 20;
/// Pairs of a key and the address from which it was let in that are remembered; a newer one takes
/// the place of an older one.
pub const KNOWN_CALLERS_MAX: usize = 8_192;
/// Addresses whose wrong keys, and those whose wrong passwords, are counted; the one with the
/// fewest makes room.
pub const GUESSERS_MAX: usize = 4_096;
/// Pieces of work that wait for one desk of the office; past it 503.
pub const OFFICE_JOBS_MAX: usize = 64;
/// A piece of work, waiting included; then 503.
pub const OFFICE_MS_MAX: u64 = 30_000;
/// What usage rows have in common (user, provider, model, prices...), kept in memory by the writer;
/// at the limit it begins anew.
pub const LEDGER_KINDS_MAX: usize = 4_096;
/// Of these, kinds that rows under way share; beyond it each has its own.
pub const LEDGER_KINDS_SHARED: usize = 1_024;
/// Logged requests that wait for the disk; more are dropped and counted.
pub const LOG_ENTRIES_MAX: usize = 4_096;
/// Memory of all of them; likewise.
pub const LOG_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What is logged of a body; the rest is left out.
pub const LOG_BODY_BYTES_MAX: usize = 64 * 1024;
/// Logged requests that one search looks at; the next page goes on behind them.
pub const LOG_SEARCH_ROWS_MAX: i64 = 5_000;
/// Logged attempts of one request that are shown.
pub const LOG_ATTEMPTS_SHOWN_MAX: usize = 16;
/// A key or a credential.
pub const SECRET_BYTES_MAX: usize = 4_096;
/// Worker threads.
pub const WORKERS_MAX: usize = 64;
/// Coroutine stack in machine words: 64 KiB on 64-bit machines.
pub const STACK_WORDS: usize = 8 * 1024;
/// Log lines that wait for the log thread; more are counted and dropped.
pub const LOG_LINES_MAX: usize = 4_096;

const _: () = {
    assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX);
    assert!(RELAY_BYTES <= REPLY_HELD_BYTES_MAX);
    assert!((REPLY_HELD_BYTES_MAX as u64) < BODY_BYTES_MAX);
    assert!(EVENT_BYTES_MAX as u64 <= HELD_BYTES_MAX);
    assert!(FORM_HELD_BYTES_MAX <= SPOOL_PIECE_BYTES);
    assert!(PARK_AFTER_MS < KEEP_ALIVE_PRESSED_MS_MAX);
    assert!(KEEP_ALIVE_PRESSED_MS_MAX < KEEP_ALIVE_MS_MAX);
};
