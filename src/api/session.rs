//! Who calls: an own key, or the cookie of a session; and how often an address may guess.
//!
//! Sessions live in memory and end with the process. Of a token only its digest is kept. A session
//! counts as long as that counts which opened it: a key with its terms, or a password.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::seal::{hex, random};
use crate::exchange::{ApiRequest, network_of};
use crate::limits;
use crate::password::Password;
use crate::route::snapshot::{self, Caller, Origin, Snapshot, User, forwarded};
use crate::secret::{Digest, KeyId};

const COOKIE: &str = "gproxy_session";
/// How long a session lasts, in milliseconds.
const SESSION_MS: i64 = 12 * 3_600_000;
/// Wrong passwords of one address within [`GUESS_MS`].
const GUESSES_MAX: u32 = 5;
const GUESS_MS: i64 = 60_000;

/// What opened a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Opener {
    /// The key of this name.
    Key(KeyId),
    /// The password of this digest, as it is compared.
    Password(Digest),
}

impl Opener {
    /// A password as it stands in the tables.
    pub(super) fn password(password: &Password) -> Opener {
        let text = match password {
            Password::Plain(secret) => secret.expose(),
            Password::Hash(hash) => hash,
        };
        Opener::Password(Digest::of(text.as_bytes()))
    }
}

/// An open session.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) user: String,
    opener: Opener,
    /// What a browser has to say with every write.
    pub(super) csrf: String,
    until_ms: i64,
    // Which of all that were opened: many may be in one millisecond.
    number: u64,
}

#[derive(Default)]
pub(super) struct Sessions {
    all: Mutex<HashMap<Digest, Session>>,
    opened: AtomicU64,
    guesses: Mutex<HashMap<IpAddr, (i64, u32)>>,
}

impl Sessions {
    /// Opens a session; gives its token.
    pub(super) fn open(
        &self,
        user: &str,
        opener: Opener,
        now_ms: i64,
    ) -> Option<(String, Session)> {
        let token = hex(&random::<32>()?);
        let csrf = hex(&random::<16>()?);
        let (user, until_ms) = (user.to_owned(), now_ms + SESSION_MS);
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let session = Session { user, opener, csrf, until_ms, number };
        let mut all = self.all.lock();
        all.retain(|_, session| session.until_ms > now_ms);
        make_room(&mut all, &session.user);
        all.insert(Digest::of(token.as_bytes()), session.clone());
        Some((token, session))
    }

    /// The session of the cookie that a request carries.
    pub(super) fn of(&self, request: &ApiRequest, now_ms: i64) -> Option<Session> {
        let digest = Digest::of(token_of(request)?.as_bytes());
        let session = self.all.lock().get(&digest).cloned()?;
        (session.until_ms > now_ms).then_some(session)
    }

    pub(super) fn close(&self, request: &ApiRequest) {
        if let Some(token) = token_of(request) {
            self.all.lock().remove(&Digest::of(token.as_bytes()));
        }
    }

    /// Ends all sessions of a user.
    pub(super) fn close_all(&self, user: &str) {
        self.all.lock().retain(|_, session| session.user != user);
    }

    /// Counts a guess from an address. `Err`: too many lately; seconds until one may be made.
    pub(super) fn guess(&self, from: IpAddr, now_ms: i64) -> Result<(), i64> {
        let mut guesses = self.guesses.lock();
        guesses.retain(|_, (since, _)| now_ms - *since < GUESS_MS);
        let from = network_of(from);
        if guesses.len() >= limits::GUESSERS_MAX && !guesses.contains_key(&from) {
            // Never all of them: who has guessed least is forgotten.
            let least = guesses.iter().min_by_key(|(_, (_, count))| *count);
            if let Some(address) = least.map(|(address, _)| *address) {
                guesses.remove(&address);
            }
        }
        let (since, count) = guesses.entry(from).or_insert((now_ms, 0));
        if *count >= GUESSES_MAX {
            return Err((*since + GUESS_MS - now_ms).max(1).div_euclid(1_000) + 1);
        }
        *count += 1;
        Ok(())
    }

    /// What was right was no guess. Those before it stay: else who has a password of his own could
    /// guess at others' for ever.
    pub(super) fn forgive(&self, from: IpAddr) {
        if let Some((_, count)) = self.guesses.lock().get_mut(&network_of(from)) {
            *count = count.saturating_sub(1);
        }
    }
}

/// Makes room for one more session of a user. Nobody's ends for another's while there is room.
fn make_room(all: &mut HashMap<Digest, Session>, user: &str) {
    let count = all.values().filter(|session| session.user == user).count();
    let whose = match all.len() >= limits::SESSIONS_MAX {
        _ if count >= limits::USER_SESSIONS_MAX => user,
        true => busiest(all),
        false => return,
    };
    let his = all.iter().filter(|(_, session)| session.user == whose);
    let oldest = his.min_by_key(|(_, session)| session.number).map(|(digest, _)| *digest);
    oldest.and_then(|digest| all.remove(&digest));
}

/// Who has most sessions.
fn busiest(all: &HashMap<Digest, Session>) -> &str {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for session in all.values() {
        *counts.entry(&session.user).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or("", |(user, _)| user)
}

impl Session {
    /// The key that opened it: an index into its user's.
    pub(super) fn key(&self, user: &User) -> Option<usize> {
        let Opener::Key(id) = self.opener else { return None };
        user.keys.iter().position(|key| key.enabled && key.id == id)
    }

    /// Whether what opened it would open one now, from there. `user`: an index of its user.
    pub(super) fn stands(
        &self,
        snapshot: &Snapshot,
        user: usize,
        from: Option<IpAddr>,
        now_ms: i64,
    ) -> bool {
        let owner = &snapshot.users[user];
        let lets_in = |key| lets_in(snapshot, Caller { user, key }, from, now_ms);
        match self.opener {
            Opener::Key(_) => self.key(owner).is_some_and(lets_in),
            opener => owner.password.as_ref().map(Opener::password) == Some(opener),
        }
    }
}

/// Whether the caller's key lets him in now, from that address.
pub(super) fn lets_in(
    snapshot: &Snapshot,
    caller: Caller,
    from: Option<IpAddr>,
    now_ms: i64,
) -> bool {
    let origin = Origin { peer: &|| from, head: None, now_ms: &|| now_ms };
    snapshot.let_in(caller, &origin).is_ok()
}

fn token_of(request: &ApiRequest) -> Option<&str> {
    let pairs = request.field("cookie")?.split(';');
    let mut values = pairs.filter_map(|pair| pair.trim().split_once('='));
    values.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// The cookie of a session, or the one that ends it.
pub(super) fn cookie(token: &str, is_secure: bool) -> String {
    let age = if token.is_empty() { 0 } else { SESSION_MS / 1_000 };
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{COOKIE}={token}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}")
}

/// The caller's address, behind proxies that are trusted the one that they tell, if it is one.
pub(super) fn address(request: &ApiRequest) -> Option<IpAddr> {
    let trusted = &request.snapshot.trusted_proxies;
    forwarded(request.peer?, request.field("x-forwarded-for").unwrap_or_default(), trusted)
}

/// Whom to count the request with: its caller, or the proxy that does not tell who that is.
pub(super) fn counted_with(request: &ApiRequest) -> Option<IpAddr> {
    let trusted = &request.snapshot.trusted_proxies;
    let told = request.field("x-forwarded-for").unwrap_or_default();
    request.peer.map(|peer| snapshot::counted_with(peer, told, trusted))
}

/// Whether the caller speaks TLS, to us or to a proxy that is trusted.
pub(super) fn is_secure(request: &ApiRequest) -> bool {
    let trusted = &request.snapshot.trusted_proxies;
    let by_proxy =
        request.peer.is_some_and(|peer| trusted.iter().any(|network| network.contains(peer)));
    request.is_secure || (by_proxy && request.field("x-forwarded-proto") == Some("https"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::snapshot::Network;

    fn opener() -> Opener {
        Opener::Password(Digest::of(b"a password"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn an_address_guesses_five_times_a_minute_and_hinders_no_other() {
        let sessions = Sessions::default();
        for _ in 0..GUESSES_MAX {
            assert_eq!(sessions.guess(ip("2001:db8::1"), 1_000), Ok(()));
        }
        // The same network of 64 bits is the same guesser.
        assert_eq!(sessions.guess(ip("2001:db8::2"), 1_000), Err(61));
        assert_eq!(sessions.guess(ip("2001:db8:0:1::1"), 1_000), Ok(()));
        assert_eq!(sessions.guess(ip("2001:db8::1"), 1_000 + GUESS_MS), Ok(()));
        // A right one is no guess, and makes no room for others.
        for _ in 0..100 {
            assert_eq!(sessions.guess(ip("2001:db8::9"), 2_000 + GUESS_MS), Ok(()));
            sessions.forgive(ip("2001:db8::9"));
        }
        for _ in 1..GUESSES_MAX {
            assert_eq!(sessions.guess(ip("2001:db8::1"), 2_000 + GUESS_MS), Ok(()));
        }
        assert!(sessions.guess(ip("2001:db8::9"), 2_000 + GUESS_MS).is_err());
        // More guessers than there is room for push nobody out who has reached his limit.
        for number in 0..2 * limits::GUESSERS_MAX as u32 {
            let _ = sessions.guess(IpAddr::from(number.to_be_bytes()), 2_000 + GUESS_MS);
        }
        assert!(sessions.guess(ip("2001:db8::1"), 2_001 + GUESS_MS).is_err());
        assert!(sessions.guesses.lock().len() <= limits::GUESSERS_MAX);
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = [Network::parse("10.0.0.0/8").expect("a network")];
        let rows = [
            ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "6.6.6.6, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", ", 198.51.100.7,, ", "198.51.100.7"),
            ("10.0.0.1", "nonsense, 198.51.100.7", "198.51.100.7"),
            ("192.0.2.1", "nonsense", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.7:40000", "198.51.100.7"),
            ("10.0.0.1", "[2001:db8::1]:80, 10.0.0.2:80", "2001:db8::1"),
            ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ];
        for (peer, told, expected) in rows {
            assert_eq!(forwarded(ip(peer), told, &trusted), Some(ip(expected)), "{peer} {told}");
        }
        // It does not make the caller one of the proxy's neighbours.
        for told in ["unknown", "198.51.100.7, _hidden", "198.51.100.7:", "nonsense, 10.0.0.2"] {
            assert_eq!(forwarded(ip("10.0.0.1"), told, &trusted), None, "{told}");
        }
    }

    #[test]
    fn sessions_end_by_time_and_all_at_once_and_are_bounded() {
        let sessions = Sessions::default();
        let open = |user: &str, now_ms| {
            sessions.open(user, opener(), now_ms).expect("there is randomness");
        };
        let count = |user: &str| {
            sessions.all.lock().values().filter(|session| session.user == user).count()
        };
        open("root", 1);
        for number in 2..2 * limits::USER_SESSIONS_MAX as i64 {
            open("alice", number);
        }
        assert_eq!((count("root"), count("alice")), (1, limits::USER_SESSIONS_MAX));
        let oldest = sessions.all.lock().values().map(|session| session.until_ms).max();
        assert_eq!(oldest, Some(SESSION_MS + 2 * limits::USER_SESSIONS_MAX as i64 - 1));
        sessions.close_all("alice");
        assert_eq!((count("root"), count("alice")), (1, 0));
        // Where there is no room at all, who has most of them gives one.
        for number in 0..limits::SESSIONS_MAX - 1 {
            open(&format!("user {}", number / limits::USER_SESSIONS_MAX), 2);
        }
        open("bob", 3);
        assert_eq!(sessions.all.lock().len(), limits::SESSIONS_MAX);
        assert_eq!((count("root"), count("bob")), (1, 1));
        open("carol", 3 + SESSION_MS);
        assert_eq!(sessions.all.lock().len(), 1);
    }
}
