//! Bytes on disk that memory should not hold: forms whose model comes behind their file.
//!
//! A file without a name in the data folder, which goes with its last descriptor, also when the
//! process is killed. Threads of the office write and read it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::exchange::{Desk, Spool, Unanswered, through};
use crate::failure::Unstored;
use crate::io::office::Office;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Says where the files are. The first word counts.
pub fn lie_in(folder: &Path) {
    let _ = FOLDER.set(folder.to_owned());
}

/// Opens an empty one for a coroutine of `worker`.
pub fn open(office: Arc<Office>, worker: usize) -> Result<Box<dyn Spool>, Unstored> {
    let folder = FOLDER.get().ok_or(Unstored::Failed)?;
    let file = ask(&office, worker, || create(folder))?;
    Ok(Box::new(Disk { office, worker, file: Arc::new(file), length: 0 }))
}

/// A file that has no name, or loses it at once where the file system knows no such thing.
fn create(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let nameless = rustix::fs::OFlags::TMPFILE.bits() as i32;
    options.clone().custom_flags(nameless).open(folder).or_else(|_| {
        let path =
            folder.join(format!("spool-{}-{:?}", std::process::id(), rustix::thread::gettid()));
        let file = options.create_new(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    })
}

/// Has a piece of work with the file done.
fn ask<T: Send + 'static>(
    office: &Office,
    worker: usize,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Unstored> {
    let answer = through(|work| office.wait(worker, Desk::Files, work), work);
    match answer {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            log::warn!(target: "gproxy::spool", "cannot lay a form aside: {error}");
            Err(Unstored::Failed)
        }
        Err(Unanswered::Full) => Err(Unstored::Busy),
        Err(Unanswered::Late | Unanswered::Failed) => Err(Unstored::Failed),
    }
}

struct Disk {
    office: Arc<Office>,
    worker: usize,
    file: Arc<File>,
    length: u64,
}

impl Spool for Disk {
    fn append(&mut self, bytes: Vec<u8>) -> Result<(), Unstored> {
        let (file, at) = (self.file.clone(), self.length);
        self.length += bytes.len() as u64;
        ask(&self.office, self.worker, move || file.write_all_at(&bytes, at))
    }

    fn read(&mut self, at: u64, count: usize) -> Result<Vec<u8>, Unstored> {
        let file = self.file.clone();
        ask(&self.office, self.worker, move || {
            let mut bytes = vec![0; count];
            file.read_exact_at(&mut bytes, at)?;
            Ok(bytes)
        })
    }

    fn reader(&self) -> Box<dyn Read + Send> {
        Box::new(Reading { file: self.file.clone(), at: 0 })
    }
}

/// Reads a file from its beginning.
struct Reading {
    file: Arc<File>,
    at: u64,
}

impl Read for Reading {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buf, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_no_name_and_keeps_its_bytes() {
        let folder = std::env::temp_dir();
        let file = create(&folder).expect("a folder to write to");
        file.write_all_at(b"bytes", 3).expect("room");
        let mut bytes = [0; 5];
        file.read_exact_at(&mut bytes, 3).expect("they are there");
        assert_eq!(&bytes, b"bytes");
        let links = rustix::fs::fstat(&file).expect("it is open").st_nlink;
        assert_eq!(links, 0);
        assert!(create(&folder.join("nothing/here")).is_err());
    }
}
