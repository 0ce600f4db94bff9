//! What may be tried after an attempt.
//!
//! One answer is never bought twice. A request that was sent is repeated only where its connection
//! had been idle in the pool and died at once, which is how a connection looks that the upstream
//! had already closed. Elsewhere another credential or target is asked only where nothing can have
//! been executed: no connection came about, or the upstream itself said that it did not serve.

use crate::failure::{Cause, Failure, Phase, Sent};
use crate::limits;

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No usable reply.
    Failed(Failure),
    /// A reply of this status.
    Answered(u16),
}

/// What may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: this is what the downstream is told.
    Final,
    /// Another credential, or another target.
    Another,
    /// Another target; what hindered this one does so with every credential.
    Elsewhere,
    /// The same request once more; with another credential where there is one.
    Again,
}

/// `is_repeated`: the request was sent once more already. The caller answers for the rest: nothing
/// was sent downstream, the body can be sent again, attempts and time are left.
pub fn after(outcome: Outcome, is_repeated: bool) -> Next {
    let failure = match outcome {
        Outcome::Answered(status) if is_refused(status) => return Next::Another,
        Outcome::Answered(_) => return Next::Final,
        Outcome::Failed(failure) => failure,
    };
    let died = match failure.cause {
        Cause::Fenced => return Next::Elsewhere,
        Cause::Disconnected | Cause::Unreachable => true,
        Cause::NoSuchHost
        | Cause::TimedOut
        | Cause::TlsRefused
        | Cause::ProxyRefused
        | Cause::Exhausted
        | Cause::NoToken
        | Cause::AccountRefused
        | Cause::Malformed => false,
        Cause::DownstreamGone | Cause::ShuttingDown | Cause::Quiet | Cause::Overtaken => {
            return Next::Final;
        }
    };
    let is_sending = match failure.phase {
        Phase::Resolve | Phase::Connect | Phase::Tls => return Next::Another,
        Phase::Send | Phase::AwaitHead => true,
        Phase::Relay => false,
    };
    let at_once = match failure.sent {
        Sent::Nothing => true,
        Sent::Part => failure.after_ms <= limits::STALE_RETRY_MS_MAX,
    };
    if died && is_sending && at_once && failure.reused && !is_repeated {
        Next::Again
    } else {
        Next::Final
    }
}

/// Another credential of the same provider hardly helps: the request is at fault, or the host that
/// all of them lead to.
pub fn is_shared(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Answered(status) => matches!(status, 403 | 500..),
        // Like a 401: this one account is not accepted.
        Outcome::Failed(Failure { cause: Cause::AccountRefused, .. }) => false,
        Outcome::Failed(failure) => {
            matches!(failure.phase, Phase::Resolve | Phase::Connect | Phase::Tls)
        }
    }
}

/// The upstream says that it did not serve: the credential's fault, or its own.
pub fn is_refused(status: u16) -> bool {
    match status {
        401..=403 | 429 => true,
        501 | 505 => false,
        status => status >= 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 6] =
        [Phase::Resolve, Phase::Connect, Phase::Tls, Phase::Send, Phase::AwaitHead, Phase::Relay];
    const CAUSES: [Cause; 12] = [
        Cause::NoSuchHost,
        Cause::Unreachable,
        Cause::TimedOut,
        Cause::TlsRefused,
        Cause::ProxyRefused,
        Cause::Exhausted,
        Cause::NoToken,
        Cause::AccountRefused,
        Cause::Disconnected,
        Cause::Malformed,
        Cause::DownstreamGone,
        Cause::ShuttingDown,
    ];

    /// Every combination of what a failure can be.
    fn failures() -> Vec<Failure> {
        let mut all = Vec::new();
        for phase in PHASES {
            for cause in CAUSES {
                for sent in [Sent::Nothing, Sent::Part] {
                    for reused in [false, true] {
                        for after_ms in [0, 250, 251, 60_000] {
                            all.push(Failure { phase, sent, cause, reused, after_ms });
                        }
                    }
                }
            }
        }
        all
    }

    /// The whole table, and the few rows that may be repeated, by hand.
    #[test]
    fn only_a_reused_connection_that_died_at_once_is_tried_again() {
        let mut expected = Vec::new();
        for phase in [Phase::Send, Phase::AwaitHead] {
            for cause in [Cause::Unreachable, Cause::Disconnected] {
                for after_ms in [0, 250, 251, 60_000] {
                    expected.push(Failure {
                        phase,
                        sent: Sent::Nothing,
                        cause,
                        reused: true,
                        after_ms,
                    });
                }
                for after_ms in [0, 250] {
                    expected.push(Failure {
                        phase,
                        sent: Sent::Part,
                        cause,
                        reused: true,
                        after_ms,
                    });
                }
            }
        }
        let again = |failure: &Failure| after(Outcome::Failed(*failure), false) == Next::Again;
        let allowed: Vec<Failure> = failures().into_iter().filter(again).collect();
        assert_eq!(allowed, expected);
        assert!(
            failures()
                .iter()
                .all(|failure| { after(Outcome::Failed(*failure), true) != Next::Again })
        );
    }

    #[test]
    fn another_is_asked_where_no_connection_came_about() {
        let left = [Cause::DownstreamGone, Cause::ShuttingDown];
        for failure in failures() {
            let early = [Phase::Resolve, Phase::Connect, Phase::Tls].contains(&failure.phase);
            let expected = early && !left.contains(&failure.cause);
            for is_repeated in [false, true] {
                let next = after(Outcome::Failed(failure), is_repeated);
                assert_eq!(next == Next::Another, expected, "{failure:?}");
            }
        }
    }

    #[test]
    fn another_target_is_asked_where_an_address_is_fenced_off() {
        let failure = Failure {
            phase: Phase::Connect,
            sent: Sent::Nothing,
            cause: Cause::Fenced,
            reused: false,
            after_ms: 0,
        };
        for is_repeated in [false, true] {
            assert_eq!(after(Outcome::Failed(failure), is_repeated), Next::Elsewhere);
        }
    }

    #[test]
    fn another_is_asked_where_the_upstream_says_that_it_did_not_serve() {
        let moves: Vec<u16> = (200..600)
            .filter(|status| after(Outcome::Answered(*status), false) == Next::Another)
            .collect();
        let expected: Vec<u16> =
            [401, 402, 403, 429, 500, 502, 503, 504].into_iter().chain(506..600).collect();
        assert_eq!(moves, expected);
        assert!((200..600).all(|status| after(Outcome::Answered(status), true) != Next::Again));
    }

    #[test]
    fn a_credential_is_to_blame_for_what_its_host_does_not_share() {
        let shared: Vec<u16> =
            (200..505).filter(|status| is_shared(Outcome::Answered(*status))).collect();
        assert_eq!(shared, [403, 500, 501, 502, 503, 504]);
        for failure in failures() {
            let early = [Phase::Resolve, Phase::Connect, Phase::Tls].contains(&failure.phase);
            let expected = early && failure.cause != Cause::AccountRefused;
            assert_eq!(is_shared(Outcome::Failed(failure)), expected, "{failure:?}");
        }
    }

    #[test]
    fn a_request_that_was_sent_on_a_fresh_connection_is_never_sent_again() {
        let failure = Failure {
            phase: Phase::AwaitHead,
            sent: Sent::Part,
            cause: Cause::Disconnected,
            reused: false,
            after_ms: 1,
        };
        assert_eq!(after(Outcome::Failed(failure), false), Next::Final);
    }
}
