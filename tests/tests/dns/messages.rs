//! DNS messages that are split, malformed or named, against what the test sent.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use podmeter_tests::{
    SECOND,
    cgroup::{Cgroup, inside},
    dns::{
        self,
        corpus::CORPUS,
        look_up, query,
        stage::{QUERIES, Stage, number, v4},
    },
    otlp::Exports,
    patience, root_test,
};
use serde_json::json;

root_test! {
    fn answers_without_a_question_end_their_lookups_and_a_zone_transfers_further_messages_are_no_trouble() {
        let stage = Stage::set(json!({"dns": {"timeout": "1s"}}), v4())?;
        let (socket, mut stream) = (stage.udp()?, stage.tcp()?);
        for id in 0..10 {
            look_up(&socket, id, "formerr-bare.test")?;
            look_up(&socket, 100 + id, "notimp-bare-delay5.test")?;
            look_up(&socket, 200 + id, "fine.test")?;
            dns::write_pieces(&mut stream, &[&dns::prefixed(&query(id, "formerr-bare.test"))])?;
            dns::receive_from(&mut stream)?;
            dns::write_pieces(&mut stream, &[&dns::prefixed(&query(100 + id, "transfer.test"))])?;
            (0..3).try_for_each(|_| dns::receive_from(&mut stream).map(drop))?;
        }
        // A bare answer may be one to the first question or to the second: the first is given up.
        socket.send(&query(7, "never.first.test"))?;
        look_up(&socket, 7, "formerr-bare.second.test")?;
        // What waits in vain would be a timeout by then.
        thread::sleep(patience(2500 * Duration::from_millis(1)));
        stage.catch_up()?;
        for (end, transport, expected) in [
            (Some("FORMERR"), "udp", 11),
            (Some("NOTIMP"), "udp", 10),
            (None, "udp", 10),
            (Some("FORMERR"), "tcp", 10),
            (None, "tcp", 10),
            (Some("timeout"), "udp", 0),
            (Some("timeout"), "tcp", 0),
        ] {
            let found = (number(stage.lookups(end, transport)), number(stage.served(end, transport)));
            ensure!(found == (expected, expected), "{end:?} over {transport}: {found:?} instead of {expected}");
        }
        let trouble = |n| [("podmeter.dns.unmatched", 0, 0), ("podmeter.dns.malformed", 0, 0), ("podmeter.dns.duplicates", n, n)];
        stage.check_counts("udp", &trouble(0))?;
        stage.check_counts("udp", &[("podmeter.dns.lost", 1, 1)])?;
        stage.check_counts("tcp", &trouble(20))?;
        stage.agent.stop().map(drop)
    }
}

root_test! {
    fn messages_split_anywhere_over_segments_and_many_in_one_are_counted_exactly() {
        let stage = Stage::set(json!({}), v4())?;
        let mut stream = stage.tcp()?;
        let mut sent = 0_u64;
        let whole = dns::prefixed(&query(7, "fine.test"));
        for at in 1..whole.len() {
            dns::write_pieces(&mut stream, &[&whole[..at], &whole[at..]])?;
            dns::receive_from(&mut stream)?;
            sent += 1;
        }
        let drip: Vec<&[u8]> = whole.chunks(1).collect();
        dns::write_pieces(&mut stream, &drip)?;
        dns::receive_from(&mut stream)?;
        // Answers too: at each place of the prefix, the header and the question, and of 65 535 bytes.
        for at in 1..40 {
            dns::write_pieces(&mut stream, &[&dns::prefixed(&query(at, &format!("split{at}.test")))])?;
            dns::receive_from(&mut stream)?;
        }
        for name in ["drip.test", "wide.test", "wide-split1.test", "wide-split300.test", "wide-split65000.test", "wide-drip.test"] {
            dns::write_pieces(&mut stream, &[&dns::prefixed(&query(9, name))])?;
            let answer = dns::receive_from(&mut stream)?;
            ensure!(answer.len() == 65_535 || name == "drip.test", "{name}: {} bytes", answer.len());
        }
        // The next message begins behind those; eight together, and the longest name.
        let many: Vec<u8> = (0..8).flat_map(|id| dns::prefixed(&query(100 + id, "fine.test"))).collect();
        dns::write_pieces(&mut stream, &[&many])?;
        (0..8).try_for_each(|_| dns::receive_from(&mut stream).map(drop))?;
        let longest = format!("fine.{0}.{0}.{0}.{1}", "x".repeat(63), "y".repeat(56));
        let longest = dns::prefixed(&query(11, &longest));
        ensure!(longest.len() == 2 + 12 + 255 + 4, "the longest name is {} bytes", longest.len() - 18);
        for at in [1, 2, 3, 14, 77, 200, 272] {
            dns::write_pieces(&mut stream, &[&longest[..at], &longest[at..]])?;
            dns::receive_from(&mut stream)?;
        }
        sent += 1 + 39 + 6 + 8 + 7;
        stage.catch_up()?;
        stage.check_counts("tcp", &[
            (QUERIES, sent, sent),
            ("podmeter.dns.unmatched", 0, 0),
            ("podmeter.dns.malformed", 0, 0),
            ("podmeter.dns.gaps", 0, 0),
            ("podmeter.dns.lost", 0, 0),
        ])?;
        let found = (number(stage.lookups(None, "tcp")), number(stage.served(None, "tcp")));
        ensure!(found == (sent, sent), "{found:?} lookups of {sent}");
        stage.agent.stop().map(drop)
    }
}

root_test! {
    fn malformed_messages_of_every_kind_are_counted_and_leave_the_agent_alive() {
        let stage = Stage::set(json!({}), v4())?;
        // Sockets that only listen: what a server makes of such messages is its own.
        let mute = SocketAddr::from(([127, 53, 0, 2], 53));
        let (deaf, listener) = inside(&stage.server_cgroup, || {
            Ok((UdpSocket::bind(mute).context("could not bind")?, dns::listener(mute)?))
        })?;
        let (socket, mut stream) = inside(&stage.client, || Ok((dns::udp(mute)?, dns::tcp(mute)?)))?;
        let mut expected = [0_u64; 4];
        for (name, wire) in CORPUS {
            let kinds = ["query", "answer", "other", "malformed"];
            let kind = kinds.iter().position(|kind| name.starts_with(kind)).context("a name begins with its kind")?;
            expected[kind] += 1;
            socket.send(wire).with_context(|| format!("could not send {name}"))?;
        }
        // One after the other in a stream that is cut without regard to where a message ends.
        let all: Vec<u8> = CORPUS.iter().flat_map(|(_, wire)| dns::prefixed(wire)).collect();
        let pieces: Vec<&[u8]> = all.chunks(97).collect();
        dns::write_pieces(&mut stream, &pieces)?;
        stage.catch_up()?;
        let [queries, answers, other, malformed] = expected;
        ensure!(malformed >= 15 && queries >= 5, "the corpus is small: {expected:?}");
        for transport in ["udp", "tcp"] {
            stage.check_counts(transport, &[
                (QUERIES, queries, queries),
                ("podmeter.dns.unmatched", answers, answers),
                ("podmeter.dns.ignored", other, other),
                ("podmeter.dns.malformed", malformed, malformed),
                ("podmeter.dns.gaps", 0, 0),
            ])?;
        }
        drop((deaf, listener));
        ensure!(look_up(&stage.udp()?, 1, "fine.test").is_ok(), "the server is gone");
        stage.agent.stop().map(drop)
    }
}

root_test! {
    fn the_names_a_container_queries_most_are_counted_where_that_is_wanted() {
        const NAMES: &str = "podmeter.dns.name.queries";
        let stage = Stage::set(json!({"dns": {"top_names": 2}}), v4())?;
        let (socket, mut stream) = (stage.udp()?, stage.tcp()?);
        // Of `rare` too few; of the longest name no letter is missing.
        let longest = format!("fine.{0}.{0}.{0}.{1}", "x".repeat(63), "y".repeat(56));
        for (name, times) in [(longest.as_str(), 3), ("rare.test", 1), ("Fine.Test", 3)] {
            (0..times).try_for_each(|id| look_up(&socket, id, name).map(drop))?;
        }
        dns::write_pieces(&mut stream, &[&dns::prefixed(&dns::message(1, 0x0100, &dns::question("fine.test", 28), &[]))])?;
        dns::receive_from(&mut stream)?;
        stage.catch_up()?;
        let path = stage.client.path().to_owned();
        let queried = |exports: &Exports, name: &str| exports.value(&path, NAMES, &[("dns.question.name", name)]);
        let expected = [("fine.test", Some(4.0)), (&longest, Some(3.0)), ("rare.test", None)];
        for (name, times) in expected {
            let found = stage.agent.look(|exports| queried(exports, name));
            ensure!(found == times, "{name} was queried {found:?} times, not {times:?}");
        }
        let served = stage.agent.look(|exports| exports.value(stage.server_cgroup.path(), NAMES, &[]));
        ensure!(served.is_none(), "the server queried nothing, not {served:?}");
        // The same for one that is gone before the next export.
        let short = Cgroup::new("dns-short")?;
        let path = short.path().to_owned();
        let socket = inside(&short, || dns::udp(stage.server.address()))?;
        look_up(&socket, 1, "fine.short.test")?;
        drop(socket);
        short.remove()?;
        let queried = |exports: &Exports| exports.value(&path, NAMES, &[("dns.question.name", "fine.short.test")]);
        stage.agent.wait_for("the name of a short container", 10 * SECOND, |exports| (queried(exports) == Some(1.0)).then_some(()))?;
        stage.agent.stop().map(drop)
    }
}
