//! Whether a failed attempt may be made again.
//!
//! One answer is never bought twice: a request that was sent is repeated only when its connection
//! had been idle in the pool and died at once, which is how a connection looks that the upstream
//! had already closed. With one credential there is no other place to send it, so any other
//! failure is final.

use crate::failure::{Cause, Failure, Phase, Sent};
use crate::limits;

/// `attempts`: how many were made so far, the failed one included. The caller answers for the
/// rest: nothing was sent downstream, and not one byte of a reply came.
pub fn may_retry(failure: &Failure, attempts: u32) -> bool {
    let died = match failure.cause {
        Cause::Disconnected | Cause::Unreachable => true,
        Cause::NoSuchHost
        | Cause::TimedOut
        | Cause::TlsRefused
        | Cause::ProxyRefused
        | Cause::Malformed
        | Cause::DownstreamGone
        | Cause::ShuttingDown => false,
    };
    let unanswered = match failure.phase {
        Phase::Send | Phase::AwaitHead => true,
        Phase::Resolve | Phase::Connect | Phase::Tls | Phase::Relay => false,
    };
    let at_once = match failure.sent {
        Sent::Nothing => true,
        Sent::Part => failure.after_ms <= limits::STALE_RETRY_MS_MAX,
    };
    attempts == 1 && failure.reused && died && unanswered && at_once
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 6] =
        [Phase::Resolve, Phase::Connect, Phase::Tls, Phase::Send, Phase::AwaitHead, Phase::Relay];
    const CAUSES: [Cause; 9] = [
        Cause::NoSuchHost,
        Cause::Unreachable,
        Cause::TimedOut,
        Cause::TlsRefused,
        Cause::ProxyRefused,
        Cause::Disconnected,
        Cause::Malformed,
        Cause::DownstreamGone,
        Cause::ShuttingDown,
    ];

    /// The whole table: every combination, and the few rows that may be repeated, by hand.
    #[test]
    fn only_a_reused_connection_that_died_at_once_is_tried_again() {
        let mut allowed = Vec::new();
        for phase in PHASES {
            for cause in CAUSES {
                for sent in [Sent::Nothing, Sent::Part] {
                    for reused in [false, true] {
                        for after_ms in [0, 250, 251, 60_000] {
                            for attempts in [1, 2, 3] {
                                let failure = Failure { phase, sent, cause, reused, after_ms };
                                if may_retry(&failure, attempts) {
                                    allowed.push((phase, cause, sent, reused, after_ms, attempts));
                                }
                            }
                        }
                    }
                }
            }
        }
        let mut expected = Vec::new();
        for phase in [Phase::Send, Phase::AwaitHead] {
            for cause in [Cause::Unreachable, Cause::Disconnected] {
                for after_ms in [0, 250, 251, 60_000] {
                    expected.push((phase, cause, Sent::Nothing, true, after_ms, 1));
                }
                for after_ms in [0, 250] {
                    expected.push((phase, cause, Sent::Part, true, after_ms, 1));
                }
            }
        }
        assert_eq!(allowed, expected);
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
        assert!(!may_retry(&failure, 1));
    }
}
