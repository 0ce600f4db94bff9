//! What users share, and fairness when it runs out: one user's flood leaves room for the others.
//!
//! While at most half of a ceiling is taken, nobody is counted. From there on each user may take a
//! quarter of it more, so that whoever comes later finds the last quarter free, however much
//! another asks for. What one request takes alone is never too much for its user's part: a ceiling
//! that one may fill is not made smaller by being shared.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Core;
use super::note::Note;
use crate::dialect::refusal::Refusal;
use crate::limits;
use crate::metrics::{Count, Gauge, Held};
use crate::route::snapshot::Limits;

/// A smaller ceiling is nobody's to share: who comes first is served.
const SHARED_MIN: usize = 8;

/// What there is only so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scarce {
    /// Requests of callers who are known.
    Requests,
    /// Memory for bodies and events.
    Bytes,
    /// Files for bodies that memory should not hold.
    Spools,
}

/// How many of these there are.
pub(super) const SCARCE: usize = 3;

impl Scarce {
    /// What counts all that is taken.
    fn gauge(self) -> Gauge {
        match self {
            Scarce::Requests => Gauge::PlacesTaken,
            Scarce::Bytes => Gauge::HeldBytes,
            Scarce::Spools => Gauge::Spools,
        }
    }

    /// Counts how often there is none.
    fn refusals(self) -> Count {
        match self {
            Scarce::Requests => Count::PlacesFull,
            Scarce::Bytes => Count::HeldFull,
            Scarce::Spools => Count::SpoolsFull,
        }
    }

    fn most(self, limits: &Limits) -> usize {
        match self {
            Scarce::Requests => limits.in_flight_max,
            Scarce::Bytes => usize::try_from(limits.held_bytes_max).unwrap_or(usize::MAX),
            Scarce::Spools => limits::SPOOLS_MAX,
        }
    }
}

/// What was taken of one thing while more than half of it was, by user.
#[derive(Default)]
pub(super) struct Crowd(Mutex<HashMap<String, usize>>);

/// The part of one request that is counted there. Dropped, it makes room.
struct Place {
    crowd: Arc<Crowd>,
    user: String,
    count: usize,
}

/// There is no more, or the user's part is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Full {
    /// What a caller is told whose request needed more.
    pub(super) fn refusal(self) -> Refusal {
        Refusal::overloaded()
    }
}

/// How much of a ceiling is taken.
#[derive(Clone, Copy)]
struct Level {
    taken: usize,
    most: usize,
}

impl Crowd {
    /// Counts `by` more of this user's in `place`, when so much is taken with it.
    fn take(
        self: &Arc<Crowd>,
        place: &mut Option<Box<Place>>,
        user: &str,
        by: usize,
        level: Level,
    ) -> Result<(), Full> {
        let Level { taken, most } = level;
        if taken <= most / 2 || most < SHARED_MIN {
            return Ok(());
        }
        let own = place.as_ref().map_or(0, |place| place.count);
        let mut all = self.0.lock();
        let count = all.get(user).copied().unwrap_or(0);
        if count > own && count + by > most / 4 {
            return Err(Full);
        }
        match all.get_mut(user) {
            Some(count) => *count += by,
            None => drop(all.insert(user.to_owned(), by)),
        }
        match place {
            Some(place) => place.count += by,
            none => {
                let crowd = self.clone();
                *none = Some(Box::new(Place { crowd, user: user.to_owned(), count: by }));
            }
        }
        Ok(())
    }
}

impl Place {
    /// So much of what is counted is free again, or all of it.
    fn give_back(&mut self, by: usize) {
        let by = by.min(self.count);
        self.count -= by;
        let mut all = self.crowd.0.lock();
        if let Some(count) = all.get_mut(&self.user) {
            *count -= by;
            if *count == 0 {
                all.remove(&self.user);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back(self.count);
    }
}

/// What one request has of something scarce. Dropped, it makes room.
pub(super) struct Share {
    scarce: Scarce,
    held: Held,
    // Most have none.
    place: Option<Box<Place>>,
}

impl Share {
    /// Nothing of it yet.
    pub(super) fn new(core: &Core, scarce: Scarce) -> Share {
        let held = core.metrics.clone().hold(scarce.gauge(), 0);
        Share { scarce, held, place: None }
    }

    /// Takes so much more for the request of this note. It is counted also where there is no room
    /// for it: whoever goes on with it all the same has it.
    pub(super) fn take(&mut self, core: &Core, note: &Note, by: usize) -> Result<(), Full> {
        self.held.grow(by as i64);
        let taken = usize::try_from(core.metrics.level(self.scarce.gauge())).unwrap_or(0);
        let most = self.scarce.most(note.limits());
        let crowd = &core.crowds[self.scarce as usize];
        let result = match note.sharer() {
            _ if taken > most => Err(Full),
            _ if self.is_small() => Ok(()),
            Some(user) => crowd.take(&mut self.place, user, by, Level { taken, most }),
            None => Ok(()),
        };
        result.inspect_err(|Full| core.metrics.count(self.scarce.refusals()))
    }

    /// So little memory is nobody's to contend for: whoever holds much still asks for small things.
    fn is_small(&self) -> bool {
        self.scarce == Scarce::Bytes && self.held.by() <= limits::RELAY_BYTES as i64
    }

    /// Has so much of it from now on, more or less than before.
    pub(super) fn set(&mut self, core: &Core, note: &Note, count: usize) -> Result<(), Full> {
        let before = usize::try_from(self.held.by()).unwrap_or(0);
        if count > before {
            return self.take(core, note, count - before);
        }
        if count < before {
            self.held.grow(-((before - count) as i64));
            if let Some(place) = &mut self.place {
                place.give_back(before - count);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_quarter_to_others_and_forgets_who_has_gone() {
        let crowd = Arc::new(Crowd::default());
        let take = |user: &str, taken| {
            let mut place = None;
            crowd.take(&mut place, user, 1, Level { taken, most: 100 }).map(|()| place)
        };
        let (mut held, mut level) = (Vec::new(), 0);
        let refused = loop {
            level += 1;
            match take("flood", level) {
                Ok(place) => held.push(place),
                Err(Full) => break level,
            }
        };
        assert_eq!((refused, held.len()), (76, 75));
        for level in 76..=100 {
            held.push(take("other", level).expect("a part of his own"));
        }
        held.clear();
        assert!(crowd.0.lock().is_empty());
        assert!(take("flood", 51).expect("room again").is_some());
    }

    #[test]
    fn what_one_takes_alone_may_grow_and_what_stands_beside_it_may_not() {
        let crowd = Arc::new(Crowd::default());
        let take = |place: &mut Option<Box<Place>>, by, taken| {
            crowd.take(place, "one", by, Level { taken, most: 1_000 })
        };
        let (mut long, mut other) = (None, None);
        assert_eq!(take(&mut long, 500, 500), Ok(()));
        assert!(long.is_none(), "half of it is free to all");
        for taken in [700, 900] {
            assert_eq!(take(&mut long, 200, taken), Ok(()));
        }
        assert_eq!(take(&mut other, 1, 901), Err(Full));
        long.as_mut().expect("it is counted").give_back(200);
        assert_eq!(take(&mut other, 50, 750), Ok(()));
        assert_eq!(take(&mut long, 1, 751), Err(Full));
        drop((long, other));
        assert!(crowd.0.lock().is_empty());
    }
}
