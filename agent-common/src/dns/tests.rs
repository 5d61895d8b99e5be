use std::{cell::Cell, fs, path::Path};

use super::{
    message::{HASH_SEED, hashed},
    *,
};

/// A question's name by its labels, type A, class IN.
fn question_of(labels: &[&[u8]]) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in labels {
        wire.push(label.len() as u8);
        wire.extend(*label);
    }
    wire.extend([0, 0, 1, 0, 1]);
    wire
}

fn message(flags: u16, questions: u8, rest: &[u8]) -> Vec<u8> {
    let mut wire = vec![0x12, 0x34];
    wire.extend(flags.to_be_bytes());
    wire.extend([0, questions, 0, 0, 0, 0, 0, 0]);
    wire.extend(rest);
    wire
}

fn query(labels: &[&[u8]]) -> Vec<u8> {
    message(0x0100, 1, &question_of(labels))
}

fn parsed(wire: &[u8]) -> Result<Message, Refused> {
    parse(wire)
}

#[test]
fn a_querys_and_an_answers_header_are_read() {
    let asked = parsed(&query(&[b"www", b"example"])).expect("is well formed");
    assert_eq!((asked.id, asked.answer, asked.truncated, asked.rcode), (0x1234, false, false, 0));
    let answered = parsed(&message(0x8383, 1, &question_of(&[b"www", b"example"]))).expect("is well formed");
    assert_eq!((answered.id, answered.answer, answered.truncated, answered.rcode), (0x1234, true, true, 3));
    assert_eq!(asked.question, answered.question);
}

#[test]
fn questions_are_told_apart_by_everything_but_case() {
    let hash = |wire: &[u8]| parsed(wire).expect("is well formed").question;
    let plain = hash(&query(&[b"www", b"example"]));
    assert_eq!(plain, hash(&query(&[b"WwW", b"eXAMPLE"])));
    let mut other_type = query(&[b"www", b"example"]);
    let at = other_type.len() - 3;
    other_type[at] = 28;
    let mut upper_type = other_type.clone();
    let mut lower_type = other_type.clone();
    (upper_type[at], lower_type[at]) = (b'A', b'a');
    let others = [
        hash(&other_type),
        hash(&upper_type),
        hash(&lower_type),
        hash(&query(&[b"ww", b"wexample"])),
        hash(&query(&[b"www", b"example", b"test"])),
        hash(&query(&[])),
    ];
    let mut all: Vec<u64> = others.into_iter().chain([plain]).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 7, "two questions have one hash");
}

#[test]
fn the_longest_name_is_read_and_a_longer_one_is_not() {
    let (x, y) = ([b'x'; 63], [b'y'; 62]);
    let longest = query(&[&x, &x, &x, &y[..61]]);
    assert_eq!(longest.len(), HEAD_LEN);
    assert!(parsed(&longest).is_ok());
    assert_eq!(parsed(&query(&[&x, &x, &x, &y])), Err(Refused::Malformed));
    assert!(parsed(&query(&vec![&b"a"[..]; 127])).is_ok());
    assert_eq!(parsed(&query(&vec![&b"a"[..]; 128])), Err(Refused::Malformed));
}

#[test]
fn a_message_that_is_cut_anywhere_is_malformed_and_what_follows_it_does_not_matter() {
    let whole = query(&[b"www", b"example", b"test"]);
    for len in 0..whole.len() {
        assert_eq!(parsed(&whole[..len]), Err(Refused::Malformed), "cut at {len}");
    }
    let mut longer = whole.clone();
    longer.extend([0xc0; 600]);
    assert_eq!(parsed(&longer), parsed(&whole));
}

/// Fails the test when it is read beyond what a head may be; counts reads beyond its end.
struct Watched<'a> {
    wire: &'a [u8],
    beyond: Cell<usize>,
}

impl Source for Watched<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        assert!(at < HEAD_LEN, "read at {at}");
        self.beyond.set(self.beyond.get() + usize::from(at >= self.wire.len()));
        self.wire.get(at).copied()
    }

    fn word(&self, at: usize) -> Option<u64> {
        (0..8).try_fold(0, |word, i| Some(word | u64::from(self.byte(at + i)?) << (8 * i)))
    }
}

/// The hash of a question in lower case, of its bytes one by one.
fn hash_by_the_book(question: &[u8]) -> u64 {
    let (name, kind) = question.split_at(question.len() - 4);
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let words = name.chunks(8).chain([kind]).map(word);
    words.fold(HASH_SEED, hashed)
}

/// A second parser, written after RFC 1035 and not after the first.
fn by_the_book(wire: &[u8]) -> Result<(u16, u16, Option<Vec<u8>>), Refused> {
    let header = wire.get(..12).ok_or(Refused::Malformed)?;
    let flags = u16::from_be_bytes([header[2], header[3]]);
    if flags >> 11 & 15 != 0 {
        return Err(Refused::Other);
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    match u16::from_be_bytes([header[4], header[5]]) {
        0 => return Ok((id, flags, None)),
        1 => {}
        _ => return Err(Refused::Malformed),
    }
    let mut at = 12;
    loop {
        let len = usize::from(*wire.get(at).ok_or(Refused::Malformed)?);
        at += 1 + len;
        if len > 63 || at - 12 > 255 {
            return Err(Refused::Malformed);
        }
        if len == 0 {
            break;
        }
    }
    let name = wire.get(12..at).ok_or(Refused::Malformed)?.to_ascii_lowercase();
    let kind = wire.get(at..at + 4).ok_or(Refused::Malformed)?;
    Ok((id, flags, Some([&name, kind].concat())))
}

fn agree(wire: &[u8]) {
    let watched = Watched { wire, beyond: Cell::new(0) };
    let ours = parse(&watched);
    match (ours, by_the_book(wire)) {
        (Ok(message), Ok((id, flags, question))) => {
            assert_eq!((message.id, message.answer, message.rcode), (id, flags >> 15 == 1, (flags & 15) as u8));
            assert_eq!(message.truncated, flags >> 9 & 1 == 1);
            let hash = question.map_or(NO_QUESTION, |question| hash_by_the_book(&question));
            assert_eq!(message.question, hash, "{wire:?}");
        }
        (Err(ours), Err(book)) => assert_eq!(ours, book, "{wire:?}"),
        (ours, book) => panic!("{ours:?} but by the book {book:?}: {wire:?}"),
    }
    assert!(watched.beyond.get() <= 1, "went on beyond the end");
}

#[test]
fn a_million_damaged_messages_are_read_as_by_the_book() {
    // xorshift64*: the same values every time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    };
    let labels = |random: &mut dyn FnMut(u64) -> u64| -> Vec<Vec<u8>> {
        (0..random(6)).map(|_| (0..1 + random(63)).map(|_| random(256) as u8).collect()).collect()
    };
    for _ in 0..200_000 {
        let labels = labels(&mut random);
        let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
        let mut wire = message((random(2) << 15 | random(1024)) as u16, 1, &question_of(&labels));
        agree(&wire);
        for _ in 0..4 {
            let at = random(wire.len() as u64) as usize;
            match random(4) {
                0 => wire[at] = random(256) as u8,
                1 => wire[at] ^= 1 << random(8),
                2 => wire.truncate(at + 1),
                _ => wire.insert(at, random(256) as u8),
            }
            agree(&wire);
        }
    }
}

#[test]
fn the_corpus_is_what_its_names_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/parse");
    let mut seen = 0;
    for entry in fs::read_dir(&directory).expect("the corpus is in the tree").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let wire = fs::read(entry.path()).expect("can be read");
        agree(&wire);
        let is = match parsed(&wire) {
            Ok(message) if message.answer => "answer",
            Ok(_) => "query",
            Err(Refused::Malformed) => "malformed",
            Err(Refused::Other) => "other",
        };
        assert!(name.starts_with(is), "{name} is {is}");
        seen += 1;
    }
    assert!(seen >= 30, "only {seen} messages");
}

#[test]
fn a_refusal_without_a_question_answers_any_and_other_answers_only_their_own() {
    let question = |wire: &[u8]| parsed(wire).expect("is well formed").question;
    let (ours, other) = (question(&query(&[b"www", b"example"])), question(&query(&[b"other", b"example"])));
    // FORMERR, SERVFAIL, NOTIMP and REFUSED, for example as CoreDNS's library makes them: a header, or one with an OPT record.
    for rest in [&[][..], &[0, 0, 41, 2, 0, 0, 0, 0, 0, 0, 0]] {
        for rcode in [1, 2, 4, 5] {
            let answer = parsed(&message(0x8180 | rcode, 0, rest)).expect("is well formed");
            assert!(answer.answers(ours) && answer.answers(other) && answer.answers(NO_QUESTION));
        }
        // NOERROR, NXDOMAIN and all others must repeat the question, or a neighbour that guesses the id could end any lookup. The further
        // messages of a zone transfer have none.
        for rcode in [0, 3, 6, 15] {
            let answer = parsed(&message(0x8180 | rcode, 0, rest)).expect("is well formed");
            assert!(!answer.answers(ours) && answer.answers(NO_QUESTION) && answer.continues(ours), "{rcode}");
        }
    }
    let answer = parsed(&message(0x8180, 1, &question_of(&[b"WWW", b"example"]))).expect("is well formed");
    assert!(answer.answers(ours) && !answer.answers(other) && !answer.answers(NO_QUESTION));
}
