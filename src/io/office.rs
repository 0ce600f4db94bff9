//! OS threads that do what a worker must not: files, the database, slow arithmetic.
//!
//! A coroutine hands a piece of work to a desk and waits on a descriptor of its own class, so the
//! worker serves others meanwhile. Each desk has its threads and its bounded queue: a full queue
//! refuses at once, and a desk that is slow slows down nobody but those who ask it.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, eventfd};

use crate::exchange::{Desk, Unanswered, Work};
use crate::io::worker::{self, Sock};
use crate::limits;

struct Job {
    work: Work,
    bell: Arc<OwnedFd>,
}

/// The desks and their threads.
pub struct Office {
    desks: [Sender<Job>; Desk::ALL.len()],
}

impl Office {
    /// Starts the threads. They end when the office is dropped and their queues are empty.
    pub fn open() -> io::Result<Office> {
        let mut threads = Vec::new();
        let desks = Desk::ALL.map(|desk| {
            let (sender, receiver) = bounded(limits::OFFICE_JOBS_MAX);
            threads.extend((0..desk.threads()).map(|_| (desk, receiver.clone())));
            sender
        });
        for (desk, receiver) in threads {
            Builder::new().name(desk.name().into()).spawn(move || attend(&receiver))?;
        }
        Ok(Office { desks })
    }

    /// Has the work done, and suspends the calling coroutine, which runs on `worker`, until it is.
    pub fn wait(&self, worker: usize, desk: Desk, work: Work) -> Result<(), Unanswered> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = bell.map_err(|_| Unanswered::Full)?;
        let mut bell = Sock::adopt(bell, worker).map_err(|_| Unanswered::Full)?;
        let job = Job { work, bell: bell.shared() };
        self.desks[desk as usize].try_send(job).map_err(|_| Unanswered::Full)?;
        let until = Instant::now() + Duration::from_millis(limits::OFFICE_MS_MAX);
        loop {
            let slice = worker::slice_until(until, Instant::now()).ok_or(Unanswered::Late)?;
            match bell.read(&mut [0; 8], slice) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(_) => return Err(Unanswered::Late),
            }
        }
    }
}

fn attend(receiver: &Receiver<Job>) {
    for Job { work, bell } in receiver {
        // What panicked leaves no answer, which its caller sees.
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            log::error!(target: "gproxy::office", "a piece of work panicked");
        }
        // It can only fail when the count overflows, which one ring cannot do.
        let _ = rustix::io::write(&*bell, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Runs `inside` on a coroutine and gives what it returns.
    fn on_a_coroutine<T: Send + 'static>(inside: impl FnOnce(usize) -> T + Send + 'static) -> T {
        worker::configure(2);
        let (sender, receiver) = mpsc::channel();
        let work = move || {
            let _ = sender.send(inside(1));
        };
        worker::spawn_on(1, work).expect("a coroutine starts");
        receiver.recv_timeout(Duration::from_secs(20)).expect("the coroutine ends")
    }

    #[test]
    fn work_is_done_elsewhere_and_a_panic_or_a_full_queue_is_told() {
        let office = Arc::new(Office::open().expect("threads start"));
        let (begun, has_begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let shared = office.clone();
        let (other_thread, panicked, refused) = on_a_coroutine(move |worker| {
            let here = rustix::thread::gettid();
            let (sender, receiver) = mpsc::channel();
            let work = Box::new(move || {
                let _ = sender.send(rustix::thread::gettid());
            });
            let done = shared.wait(worker, Desk::Api, work);
            let other = done.is_ok() && receiver.try_recv().expect("it has run") != here;
            // The bell rings for work that panicked too, and the desk goes on.
            let panicked = shared.wait(worker, Desk::Api, Box::new(|| panic!("as it should")));
            // One piece of work holds the only thread; behind it the queue fills.
            let bell = || Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("a descriptor"));
            let hold = Box::new(move || {
                let _ = begun.send(());
                let _ = released.recv();
            });
            let desk = &shared.desks[Desk::Api as usize];
            assert!(desk.send(Job { work: hold, bell: bell() }).is_ok());
            has_begun.recv().expect("it begins");
            for _ in 0..limits::OFFICE_JOBS_MAX {
                assert!(desk.try_send(Job { work: Box::new(|| ()), bell: bell() }).is_ok());
            }
            (other, panicked, shared.wait(worker, Desk::Api, Box::new(|| ())))
        });
        release.send(()).expect("it waits for this");
        assert!(other_thread);
        assert_eq!(panicked, Ok(()));
        assert_eq!(refused, Err(Unanswered::Full));
    }
}
