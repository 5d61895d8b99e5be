//! The dns signal against a server whose answers and delays are known, and the client's own clock.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    SECOND,
    agent::Agent,
    cgroup::{Cgroup, inside},
    dns::{
        self, ask,
        corpus::CORPUS,
        query,
        server::Server,
        stage::{LOOKUPS, QUERIES, Stage, count, durations, number, v4, v6},
    },
    is_emulated,
    namespace::{Cable, FAR, INTERFACE, NEAR, Namespace},
    otlp::Exports,
    patience, root_test,
};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

root_test! {
    fn lookups_take_as_long_as_the_servers_delay_on_both_sides() {
        for address in [v4(), v6()] {
            let stage = Stage::set(json!({}), address)?;
            let socket = stage.udp()?;
            let mut asked = Vec::new();
            for (delay_ms, times) in [(1_u64, 20_u16), (20, 10), (500, 3)] {
                for i in 0..times {
                    asked.push(ask(&socket, i, &format!("delay{delay_ms}.test"))?.as_secs_f64());
                }
            }
            stage.catch_up()?;
            let delays: Vec<f64> = stage.server.take_delays().iter().map(Duration::as_secs_f64).collect();
            stage.check_counts("udp", &[(QUERIES, 33, 33), ("podmeter.dns.unmatched", 0, 0), ("podmeter.dns.retries", 0, 0)])?;
            let client = stage.lookups(None, "udp").context("no lookups")?;
            let server = stage.served(None, "udp").context("nothing served")?;
            // What the kernel sees at the client's socket lies between what the server did and what the client waited.
            let (least, most) = (delays.iter().sum::<f64>(), asked.iter().sum::<f64>());
            for (who, histogram) in [("client", &client), ("server", &server)] {
                ensure!(histogram.count == 33, "{who}: {} lookups of 33", histogram.count);
                ensure!((least..=most).contains(&histogram.sum), "{who}: {} s, not from {least} to {most} s", histogram.sum);
                for q in [0.3, 0.75, 0.99] {
                    let rank = (q * 33.0_f64).ceil() as usize - 1;
                    let (low, high) = histogram.quantile_bounds(q).context("no quantile")?;
                    let (mut slowest, mut fastest) = (asked.clone(), delays.clone());
                    slowest.sort_by(f64::total_cmp);
                    fastest.sort_by(f64::total_cmp);
                    ensure!(
                        low <= slowest[rank] && fastest[rank] <= high,
                        "{who}: p{q} is from {low} to {high} s, by the clocks from {} to {} s",
                        fastest[rank],
                        slowest[rank]
                    );
                }
            }
            ensure!(server.sum <= client.sum, "the server took longer ({}) than the client waited ({})", server.sum, client.sum);
            stage.agent.stop()?;
        }
        Ok(())
    }
}

root_test! {
    fn every_outcome_is_counted_once_over_udp_and_tcp() {
        let stage = Stage::set(json!({}), v4())?;
        let outcomes: [(&str, Option<&str>); 6] = [
            ("fine", None),
            ("nxdomain", Some("NXDOMAIN")),
            ("servfail", Some("SERVFAIL")),
            ("refused", Some("REFUSED")),
            ("formerr", Some("FORMERR")),
            ("rare", Some("_OTHER")),
        ];
        let (socket, mut stream) = (stage.udp()?, stage.tcp()?);
        for (i, (word, _)) in outcomes.iter().enumerate() {
            for n in 0..=i as u16 {
                ask(&socket, 100 * i as u16 + n, &format!("{word}.TEST"))?;
                dns::write_pieces(&mut stream, &[&dns::prefixed(&query(n, &format!("{word}.test")))])?;
                dns::receive_from(&mut stream)?;
            }
        }
        stage.catch_up()?;
        for transport in ["udp", "tcp"] {
            for (i, (_, end)) in outcomes.iter().enumerate() {
                let found = (number(stage.lookups(*end, transport)), number(stage.served(*end, transport)));
                ensure!(found == (i as u64 + 1, i as u64 + 1), "{end:?} over {transport}: {found:?} instead of {}", i + 1);
            }
            stage.check_counts(transport, &[(QUERIES, 21, 21), ("podmeter.dns.unmatched", 0, 0), ("podmeter.dns.lost", 0, 0)])?;
        }
        stage.agent.stop().map(drop)
    }
}

root_test! {
    fn retries_duplicates_forgeries_cut_answers_and_silence_are_told_apart() {
        let stage = Stage::set(json!({"dns": {"timeout": "1s"}}), v4())?;
        let socket = stage.udp()?;
        // Asked three times before the answer: one lookup, two retries, and two more answers than were waited for.
        let begin = Instant::now();
        for _ in 0..3 {
            socket.send(&query(1, "delay100.test"))?;
            thread::sleep(Duration::from_millis(20));
        }
        for _ in 0..3 {
            dns::receive(&socket)?;
        }
        let whole = begin.elapsed().as_secs_f64();
        // One answer twice; a wrong id and a wrong question before the true answer; one that is cut.
        socket.send(&query(2, "twice.test"))?;
        dns::receive(&socket)?;
        dns::receive(&socket)?;
        socket.send(&query(3, "forged.test"))?;
        (0..3).try_for_each(|_| dns::receive(&socket).map(drop))?;
        ask(&socket, 4, "cut.test")?;
        // Seven that nobody answers, two of them over TCP.
        for id in 10..15 {
            socket.send(&query(id, "never.test"))?;
        }
        let mut stream = stage.tcp()?;
        dns::write_pieces(&mut stream, &[&dns::prefixed(&query(1, "never.test")), &dns::prefixed(&query(2, "never.test"))])?;
        thread::sleep(patience(2500 * Duration::from_millis(1)));
        stage.catch_up()?;

        let lookups = stage.lookups(None, "udp").context("no lookups")?;
        ensure!(lookups.count == 4, "{} lookups of 4", lookups.count);
        ensure!((0.1..whole + 1.0).contains(&lookups.sum), "{} s: the first query's time counts, {whole} s", lookups.sum);
        stage.check_counts("udp", &[
            (QUERIES, 11, 11),
            ("podmeter.dns.retries", 2, 2),
            ("podmeter.dns.duplicates", 2 + 1, 2 + 1),
            ("podmeter.dns.unmatched", 2, 2),
            ("podmeter.dns.truncated", 1, 1),
            ("podmeter.dns.lost", 0, 0),
        ])?;
        for (transport, n) in [("udp", 5), ("tcp", 2)] {
            for timeouts in [stage.lookups(Some("timeout"), transport), stage.served(Some("timeout"), transport)] {
                let timeouts = timeouts.with_context(|| format!("no timeouts over {transport}"))?;
                ensure!(timeouts.count == n, "{} timeouts over {transport} of {n}", timeouts.count);
                ensure!(timeouts.sum == n as f64, "each is as long as the timeout: {}", timeouts.sum);
            }
        }
        let waiting = stage.agent.look(|exports| exports.node_value("podmeter.dns.in_flight", &[]));
        ensure!(waiting == Some(0.0), "{waiting:?} still in flight");
        stage.agent.stop().map(drop)
    }
}

root_test! {
    fn answers_without_a_question_end_their_lookups_and_a_zone_transfers_further_messages_are_no_trouble() {
        let stage = Stage::set(json!({"dns": {"timeout": "1s"}}), v4())?;
        let (socket, mut stream) = (stage.udp()?, stage.tcp()?);
        for id in 0..10 {
            ask(&socket, id, "formerr-bare.test")?;
            ask(&socket, 100 + id, "notimp-bare-delay5.test")?;
            ask(&socket, 200 + id, "fine.test")?;
            dns::write_pieces(&mut stream, &[&dns::prefixed(&query(id, "formerr-bare.test"))])?;
            dns::receive_from(&mut stream)?;
            dns::write_pieces(&mut stream, &[&dns::prefixed(&query(100 + id, "transfer.test"))])?;
            (0..3).try_for_each(|_| dns::receive_from(&mut stream).map(drop))?;
        }
        // Whether a bare answer is one to the first question or to the second nobody can say: the first is given up.
        socket.send(&query(7, "never.first.test"))?;
        ask(&socket, 7, "formerr-bare.second.test")?;
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
    fn of_name_servers_that_are_asked_at_once_all_but_the_first_answer_what_was_answered() {
        let stage = Stage::set(json!({}), v4())?;
        let others = [2, 3].map(|n| Server::start(&stage.server_cgroup, SocketAddr::from(([127, 53, 0, n], 53))));
        let others = others.into_iter().collect::<Result<Vec<_>>>()?;
        let servers = [stage.server.address(), others[0].address(), others[1].address()];
        // No answer is there before the last query has left.
        let name = if is_emulated() { "delay300.test" } else { "delay20.test" };
        // As musl does: one socket that is not connected, the same query to each server.
        for id in 0..20 {
            let socket = inside(&stage.client, || UdpSocket::bind("0.0.0.0:0").context("could not make a socket"))?;
            socket.set_read_timeout(Some(patience(SECOND)))?;
            for server in servers {
                socket.send_to(&query(id, name), server)?;
            }
            (0..3).try_for_each(|_| dns::receive(&socket).map(drop))?;
            // What nobody asked for stays what it is.
            inside(&stage.server_cgroup, || {
                let stranger = UdpSocket::bind("127.53.0.4:53").context("could not bind")?;
                let answer = dns::message(id ^ 0x5555, dns::ANSWER, &dns::question(name, dns::A), &[]);
                stranger.send_to(&answer, ("127.0.0.1", socket.local_addr()?.port())).context("could not send")
            })?;
            dns::receive(&socket)?;
        }
        stage.catch_up()?;
        let found = (number(stage.lookups(None, "udp")), number(stage.served(None, "udp")));
        ensure!(found == (20, 60), "{found:?} lookups, of 20 asked and 60 answered");
        stage.check_counts("udp", &[
            (QUERIES, 60, 60),
            ("podmeter.dns.retries", 40, 0),
            ("podmeter.dns.duplicates", 40, 0),
            ("podmeter.dns.unmatched", 20, 20),
        ])?;
        drop(others);
        stage.agent.stop().map(drop)
    }
}

root_test! {
    fn a_raw_socket_that_gets_copies_of_dns_has_no_lookups_whether_the_network_signal_is_on_or_off() {
        for network in [true, false] {
            let stage = Stage::set(json!({"signals": {"network": network}, "dns": {"timeout": "1s"}}), v4())?;
            let sniffer = Cgroup::new("dns-sniffer")?;
            let raw = || Socket::new(Domain::IPV4, Type::from(nix::libc::SOCK_RAW), Some(Protocol::UDP)).context("no raw socket");
            let raw = inside(&sniffer, raw)?;
            let socket = stage.udp()?;
            (0..20).try_for_each(|id| ask(&socket, id, "fine.test").map(drop))?;
            raw.set_read_timeout(Some(patience(SECOND)))?;
            ensure!(raw.recv(&mut [std::mem::MaybeUninit::uninit(); 512]).is_ok(), "it got no copy: this would prove nothing");
            thread::sleep(patience(2500 * Duration::from_millis(1)));
            stage.catch_up()?;
            stage.check_counts("udp", &[(QUERIES, 20, 20), ("podmeter.dns.unmatched", 0, 0)])?;
            let copies = stage.agent.look(|exports| {
                let ways = [(QUERIES, "server"), ("podmeter.dns.unmatched", "server"), ("podmeter.dns.unmatched", "client")];
                ways.map(|(metric, side)| count(exports, sniffer.path(), metric, side, "udp"))
            });
            ensure!(copies == [0; 3], "copies were counted, network {network}: {copies:?}");
            stage.agent.stop()?;
        }
        Ok(())
    }
}

root_test! {
    fn multicast_on_a_port_of_dns_is_no_lookup() {
        const PORT: u16 = 5353;
        let cable = Cable::new()?;
        let agent = Agent::start(json!({"dns": {"ports": "53,5353", "timeout": "1s"}}))?;
        let (asker, responder) = (Cgroup::new("dns-asker")?, Cgroup::new("dns-responder")?);
        let v4 = |cgroup: &Cgroup, namespace: &Namespace, own: Ipv4Addr| {
            inside(cgroup, || namespace.run(|| {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
                socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
                socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &own)?;
                socket.set_multicast_if_v4(&own)?;
                socket.set_multicast_loop_v4(false)?;
                Ok(UdpSocket::from(socket))
            }))
        };
        let v6 = |cgroup: &Cgroup, namespace: &Namespace, own: u16| {
            inside(cgroup, || namespace.run(|| {
                namespace.ip(&format!("address add fe80::{own}/64 dev {INTERFACE} nodad"))?;
                // Address, index, …, name.
                let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6").context("no addresses of IPv6")?;
                let of_cable = text.lines().find(|line| line.ends_with(INTERFACE)).and_then(|line| line.split(' ').nth(1));
                let index = u32::from_str_radix(of_cable.context("the cable has no address")?, 16)?;
                let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
                socket.set_only_v6(true)?;
                socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
                socket.join_multicast_v6(&Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), index)?;
                socket.set_multicast_if_v6(index)?;
                socket.set_multicast_loop_v6(false)?;
                Ok(UdpSocket::from(socket))
            }))
        };
        let groups = [
            (v4(&asker, &cable.near, NEAR)?, v4(&responder, &cable.far, FAR)?, "224.0.0.251:5353"),
            (v6(&asker, &cable.near, 1)?, v6(&responder, &cable.far, 2)?, "[ff02::fb]:5353"),
        ];
        for (asks, responds, group) in &groups {
            for socket in [asks, responds] {
                socket.set_read_timeout(Some(patience(SECOND)))?;
            }
            // All queries of multicast DNS have the id 0; an answer has no question.
            for n in 0..10 {
                asks.send_to(&query(0, &format!("printer{n}.local")), group).with_context(|| format!("could not ask {group}"))?;
                dns::receive(responds)?;
                responds.send_to(&dns::bare(0, dns::ANSWER | 0x0400), group)?;
                dns::receive(asks)?;
            }
        }
        thread::sleep(patience(2 * SECOND));
        agent.catch_up()?;
        let exports = agent.stop()?.exports;
        for cgroup in [&asker, &responder] {
            let of = |metric| ["client", "server"].map(|side| count(&exports, cgroup.path(), metric, side, "udp")).iter().sum::<u64>();
            let found = [QUERIES, "podmeter.dns.unmatched", "podmeter.dns.duplicates", "podmeter.dns.ignored"].map(of);
            ensure!(found == [0, 0, 0, 40], "{}: {found:?} instead of 40 that are no lookups", cgroup.path());
            ensure!(durations(&exports, cgroup.path(), LOOKUPS, Some("timeout"), "udp").is_none(), "timeouts");
        }
        Ok(())
    }
}

root_test! {
    fn a_thousand_queries_in_flight_on_few_sockets_are_all_matched_out_of_order() {
        let stage = Stage::set(json!({}), v4())?;
        let sockets = (0..10).map(|_| stage.udp()).collect::<Result<Vec<_>>>()?;
        for (n, socket) in sockets.iter().enumerate() {
            for id in 0..100_u16 {
                // The later ones are answered first.
                socket.send(&query(id, &format!("delay{}.n{n}.test", 1400 - 3 * id)))?;
            }
        }
        for socket in &sockets {
            (0..100).try_for_each(|_| dns::receive(socket).map(drop))?;
        }
        stage.catch_up()?;
        stage.check_counts("udp", &[(QUERIES, 1000, 1000), ("podmeter.dns.unmatched", 0, 0), ("podmeter.dns.retries", 0, 0)])?;
        let found = (number(stage.lookups(None, "udp")), number(stage.served(None, "udp")));
        ensure!(found == (1000, 1000), "{found:?} lookups of 1000");
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
            let kind = kinds.iter().position(|kind| name.starts_with(kind)).context("a name says what it is")?;
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
        ensure!(ask(&stage.udp()?, 1, "fine.test").is_ok(), "the server is gone");
        stage.agent.stop().map(drop)
    }
}

root_test! {
    fn the_names_a_container_asks_for_most_are_counted_where_that_is_wanted() {
        const NAMES: &str = "podmeter.dns.name.queries";
        let stage = Stage::set(json!({"dns": {"top_names": 2}}), v4())?;
        let (socket, mut stream) = (stage.udp()?, stage.tcp()?);
        // Of `rare` too few; of the longest name no letter is missing.
        let longest = format!("fine.{0}.{0}.{0}.{1}", "x".repeat(63), "y".repeat(56));
        for (name, times) in [(longest.as_str(), 3), ("rare.test", 1), ("Fine.Test", 3)] {
            (0..times).try_for_each(|id| ask(&socket, id, name).map(drop))?;
        }
        dns::write_pieces(&mut stream, &[&dns::prefixed(&dns::message(1, 0x0100, &dns::question("fine.test", 28), &[]))])?;
        dns::receive_from(&mut stream)?;
        stage.catch_up()?;
        let path = stage.client.path().to_owned();
        let asked = |exports: &Exports, name: &str| exports.value(&path, NAMES, &[("dns.question.name", name)]);
        let expected = [("fine.test", Some(4.0)), (&longest, Some(3.0)), ("rare.test", None)];
        for (name, times) in expected {
            let found = stage.agent.look(|exports| asked(exports, name));
            ensure!(found == times, "{name} was asked for {found:?} times, not {times:?}");
        }
        let served = stage.agent.look(|exports| exports.value(stage.server_cgroup.path(), NAMES, &[]));
        ensure!(served.is_none(), "the server asked for nothing: {served:?}");
        // The same for one that is gone before the next export.
        let short = Cgroup::new("dns-short")?;
        let path = short.path().to_owned();
        let socket = inside(&short, || dns::udp(stage.server.address()))?;
        ask(&socket, 1, "fine.short.test")?;
        drop(socket);
        short.remove()?;
        let told = |exports: &Exports| exports.value(&path, NAMES, &[("dns.question.name", "fine.short.test")]);
        stage.agent.wait_for("the name of a short container", 10 * SECOND, |exports| (told(exports) == Some(1.0)).then_some(()))?;
        stage.agent.stop().map(drop)
    }
}

root_test! {
    fn a_container_that_lives_for_one_lookup_is_reported() {
        let stage = Stage::set(json!({}), v4())?;
        let short = Cgroup::new("dns-short")?;
        let socket = inside(&short, || dns::udp(stage.server.address()))?;
        ask(&socket, 1, "delay30.test")?;
        socket.send(&query(2, "never.test"))?;
        drop(socket);
        let path = short.path().to_owned();
        short.remove()?;
        let found = |exports: &Exports| {
            let lookups = durations(exports, &path, LOOKUPS, None, "udp").map(|histogram| histogram.count);
            let abandoned = count(exports, &path, "podmeter.dns.abandoned", "client", "udp");
            (lookups == Some(1) && abandoned == 1).then_some(())
        };
        stage.agent.wait_for("the last words of a short container", 10 * SECOND, found)?;
        stage.agent.stop().map(drop)
    }
}
