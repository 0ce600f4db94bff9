//! Fairness when a gateway fills up: one user's flood leaves room for the others.
//!
//! While at most half of `limits.in_flight_max` is taken, nobody is counted. From there on each
//! user may have a quarter of the ceiling more under way, so that whoever comes later finds the
//! last quarter free, however many requests another sends.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// A smaller ceiling is nobody's to share: who comes first is served.
const SHARED_MIN: usize = 8;

/// Requests that began while more than half of the ceiling was taken, by user.
#[derive(Default)]
pub(super) struct Crowd(Mutex<HashMap<String, usize>>);

/// One of them. Dropped, it makes room.
pub(super) struct Place {
    crowd: Arc<Crowd>,
    user: String,
}

impl Crowd {
    /// A place for a request of this user, when `level` requests of at most `most` are under way.
    /// `Ok(None)`: there is room for all. `Err`: this user has his share.
    pub(super) fn enter(
        self: &Arc<Crowd>,
        user: &str,
        level: usize,
        most: usize,
    ) -> Result<Option<Place>, Full> {
        if level <= most / 2 || most < SHARED_MIN {
            return Ok(None);
        }
        let mut all = self.0.lock();
        let count = all.get(user).copied().unwrap_or(0);
        if count >= most / 4 {
            return Err(Full);
        }
        all.insert(user.to_owned(), count + 1);
        Ok(Some(Place { crowd: self.clone(), user: user.to_owned() }))
    }
}

/// The user's share is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.crowd.0.lock();
        if let Some(count) = all.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_quarter_to_others_and_forgets_who_has_gone() {
        let crowd = Arc::new(Crowd::default());
        let (mut held, mut level) = (Vec::new(), 0);
        let refused = loop {
            level += 1;
            match crowd.enter("flood", level, 100) {
                Ok(place) => held.push(place),
                Err(Full) => break level,
            }
        };
        assert_eq!((refused, held.len()), (76, 75));
        for level in 76..=100 {
            held.push(crowd.enter("other", level, 100).expect("a share of his own"));
        }
        held.clear();
        assert!(crowd.0.lock().is_empty());
        assert!(crowd.enter("flood", 51, 100).expect("room again").is_some());
    }
}
