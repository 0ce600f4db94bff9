//! Seeded changes to sound inputs, so that every fuzz entry also runs in `cargo test`.

use super::prng::Prng;

/// Runs `entry` over each sample, and over `rounds` mutations of each. Prints the seed of a panic.
pub fn run(samples: &[&[u8]], spices: &[&[u8]], rounds: u64, entry: impl Fn(&[u8])) {
    for (index, sample) in samples.iter().enumerate() {
        entry(sample);
        for round in 0..rounds {
            let seed = round << 16 | index as u64;
            let input = mutate(sample, spices, &mut Prng::new(seed));
            let told = Told { seed, input: &input };
            entry(&input);
            std::mem::forget(told);
        }
    }
}

/// Speaks when it is dropped, which only a panic does.
struct Told<'i> {
    seed: u64,
    input: &'i [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        eprintln!("seed {}: \"{}\"", self.seed, self.input.escape_ascii());
    }
}

/// `sample` with a few bytes changed, cut out or doubled, or with some of `spices` put in.
pub fn mutate(sample: &[u8], spices: &[&[u8]], prng: &mut Prng) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=prng.below(4) {
        let at = prng.below(bytes.len() + 1);
        let end = (at + prng.below(8)).min(bytes.len());
        match prng.below(6) {
            0 if at < bytes.len() => bytes[at] = prng.next_u64() as u8,
            1 => drop(bytes.drain(at..end)),
            2 => {
                let doubled = bytes[at..end].to_vec();
                bytes.splice(at..at, doubled);
            }
            _ => {
                bytes.splice(at..at, prng.pick(spices).iter().copied());
            }
        }
    }
    bytes
}
