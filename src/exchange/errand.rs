//! Calls that belong to no downstream: the gateway's own.
//!
//! Once a second somebody outside asks what is due and runs each errand in a coroutine of its own.

use std::sync::Arc;

use super::lists;
use super::tokens::{self, Claim};
use super::{Core, Fetch, Fetched, Question, Upstream};
use crate::failure::Failure;
use crate::limits;
use crate::route::retry::{self, Next, Outcome};
use crate::route::snapshot::Snapshot;

/// One call to make.
pub struct Errand {
    snapshot: Arc<Snapshot>,
    provider: usize,
    what: What,
}

enum What {
    /// Renew the token of the credential of that place.
    Token(usize, Claim),
    /// Fetch the list of models.
    List,
    /// Somebody wants to know.
    Asked(Question),
}

impl Core {
    /// What is due. Each errand is handed out once.
    pub fn errands(&self) -> Vec<Errand> {
        let (snapshot, now) = (self.snapshot(), self.now());
        let mut errands = std::mem::take(&mut *self.asked.lock());
        for (at, provider) in snapshot.providers.iter().enumerate().filter(|(_, one)| one.enabled) {
            if self.lists.claim(provider, now) {
                let (snapshot, provider) = (snapshot.clone(), at);
                errands.push(Errand { snapshot, provider, what: What::List });
            }
            for (place, credential) in provider.credentials.iter().enumerate() {
                let account = credential.account.as_deref();
                let claim = account.and_then(|account| self.tokens.renewal(account, now));
                errands.extend(claim.map(|claim| Errand {
                    snapshot: snapshot.clone(),
                    provider: at,
                    what: What::Token(place, claim),
                }));
            }
        }
        errands
    }
}

impl Errand {
    /// What somebody asked for.
    pub(super) fn asked(snapshot: Arc<Snapshot>, provider: usize, question: Question) -> Errand {
        Errand { snapshot, provider, what: What::Asked(question) }
    }

    /// Makes the call.
    pub fn run<U: Upstream>(self, core: &Core, up: &mut U) {
        let provider = &self.snapshot.providers[self.provider];
        match self.what {
            What::Token(place, claim) => {
                if let Some(account) = &provider.credentials[place].account {
                    // What failed is noted, and the old token still counts.
                    let _ = tokens::renew(core, up, provider, account, claim, limits::FETCH_MS_MAX);
                }
            }
            What::List => lists::refresh(core, up, provider),
            What::Asked(question) => question.ask(core, up, provider),
        }
    }
}

/// Makes the call; again when it met a connection that had died in the pool.
pub(super) fn fetch<U: Upstream>(up: &mut U, fetch: &Fetch<'_>) -> Result<Fetched, Failure> {
    match up.fetch(fetch) {
        Err(failure) if retry::after(Outcome::Failed(failure), false) == Next::Again => {
            up.fetch(fetch)
        }
        result => result,
    }
}
