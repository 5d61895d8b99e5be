//! Parsers of foreign input under mutated input (tests only): what `cargo fuzz` does with the same corpus, for a bounded time and
//! without its toolchain.
//!
//! The first inputs are the same in every run, the later ones come from a seed that a failure prints. `PODMETER_FUZZ_SECONDS`
//! sets how long it goes on, `PODMETER_FUZZ_SEED` repeats a run.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

/// How long each parser is fed where nothing else is said.
const USUAL: Duration = Duration::from_secs(1);

/// Inputs that are the same in every run.
const FIXED: u64 = 5_000;

/// Bytes of the longest input.
const LONGEST: usize = 256 << 10;

/// CPU time of one input in a debug build on a slow machine: a part for its start, and one for each byte. What grows with the square
/// of the length is far beyond it at [`LONGEST`].
const LEAST_NS: u64 = 30_000_000;
const PER_BYTE_NS: u64 = 4_000;

/// How often an input is tried that takes longer.
const TRIES: u32 = 4;

/// Feeds `parse` with the corpus `fuzz/corpus/<target>` and with what can be made of it.
///
/// # Panics
/// When `parse` does, or takes longer than its input is worth. The input is printed.
pub fn hammer(target: &str, parse: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&directory).expect("the corpus is in the tree").flatten().map(|file| file.path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("can be read")).collect();
    assert!(corpus.len() >= 5, "only {} inputs in {}", corpus.len(), directory.display());

    for input in &corpus {
        one(target, "the corpus", input, &parse);
        one(target, "the corpus, repeated", &input.repeat(LONGEST / input.len().max(1)), &parse);
    }
    let seconds = |text: String| text.parse().map(Duration::from_secs_f64).ok();
    let end = Instant::now() + std::env::var("PODMETER_FUZZ_SECONDS").ok().and_then(seconds).unwrap_or(USUAL);
    let mut fixed = fastrand::Rng::with_seed(1);
    for _ in 0..FIXED {
        one(target, "seed 1", &mutated(&corpus, &mut fixed), &parse);
        if Instant::now() >= end {
            break;
        }
    }
    let seed = std::env::var("PODMETER_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    while Instant::now() < end {
        one(target, &format!("PODMETER_FUZZ_SEED={seed}"), &mutated(&corpus, &mut random), &parse);
    }
}

fn one(target: &str, origin: &str, input: &[u8], parse: &impl Fn(&[u8])) {
    let shown = || format!("{target}, {origin}, {} bytes: \"{}\"", input.len(), input[..input.len().min(2000)].escape_ascii());
    let most = LEAST_NS + PER_BYTE_NS * input.len() as u64;
    // What a hypervisor takes from this CPU counts as this thread's: only what is too slow each time is.
    let mut tries = (0..TRIES).map(|_| {
        let began = cpu_ns();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| parse(input))) {
            eprintln!("the parser panicked: {}", shown());
            resume_unwind(panic);
        }
        cpu_ns() - began
    });
    assert!(tries.any(|took| took <= most), "more than {} ms of CPU time, {TRIES} times, for {}", most / 1_000_000, shown());
}

/// This thread's CPU time: others may need the CPU meanwhile.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every kernel has this clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// One of the corpus with some changes, most of them small.
fn mutated(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    /// Bytes and words that mean something to many parsers.
    const WORDS: &[&[u8]] = &[
        b"\0",
        b"\xff",
        b"\x7f",
        b"\x80",
        b"-",
        b".",
        b"/",
        b":",
        b"\\x",
        b"\"",
        b"{",
        b"[",
        b"]",
        b"}",
        b",",
        b"\n",
        b" ",
        b"0",
        b"9",
        b"e",
        b"-1",
        b"18446744073709551615",
        b"9223372036854775808",
        b"1e999999999",
        b"null",
        b"\xe2\x80\xae",
        b"\xf0\x9f\x92\xa9",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x80",
        b"\x01\0\0\0",
        b"&a",
        b"*a",
        b"!!",
        b"? ",
        b"- ",
        b"|",
        b">",
        b"kubepods",
        b".slice",
        b".scope",
    ];
    let any = |random: &mut fastrand::Rng| &corpus[random.usize(..corpus.len())];
    let mut input = any(random).clone();
    for _ in 0..=random.usize(..6) {
        let at = random.usize(..=input.len());
        let end = (at + random.usize(..=32)).min(input.len());
        match random.u8(..10) {
            0 | 1 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            2 if at < input.len() => input[at] = random.u8(..),
            3 => drop(input.drain(at..end)),
            4 => {
                let word = WORDS[random.usize(..WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
            5 => {
                let word = WORDS[random.usize(..WORDS.len())];
                input.splice(at..end, word.iter().copied());
            }
            6 => {
                let copy = input[at..end].to_vec();
                let to = random.usize(..=input.len());
                input.splice(to..to, copy);
            }
            7 => {
                let other = any(random);
                let from = random.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            8 if random.u8(..16) == 0 => {
                // Something short, very often: what is nested, and what is quadratic.
                let times = random.usize(..=LONGEST / (end - at).max(1));
                let copy = input[at..end].repeat(times);
                input.splice(at..end, copy);
            }
            _ => input.truncate(at.max(1)),
        }
        input.truncate(LONGEST);
    }
    input
}

#[test]
#[should_panic(expected = "as planned")]
fn a_parser_that_panics_is_found() {
    hammer("quantity", |input| assert!(input.iter().all(|byte| *byte != b'['), "as planned"));
}

#[test]
#[should_panic(expected = "ms of CPU time")]
fn a_parser_that_takes_too_long_is_found() {
    hammer("quantity", |input| {
        let end = cpu_ns() + LEAST_NS + PER_BYTE_NS * input.len().min(100) as u64;
        while cpu_ns() <= end {}
    });
}
