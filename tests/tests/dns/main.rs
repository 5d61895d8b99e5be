//! The dns signal against a server whose answers and delays are known, and the client's own clock.

mod messages;
mod sockets;

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use podmeter_tests::{
    SECOND,
    cgroup::{Cgroup, inside},
    dns::{
        self, look_up, query,
        server::DnsServer,
        stage::{LOOKUPS, QUERIES, Stage, count, durations, number, v4, v6},
    },
    is_emulated,
    otlp::Exports,
    patience, root_test,
};
use serde_json::json;

root_test! {
    fn lookups_take_as_long_as_the_servers_delay_on_both_sides() {
        for address in [v4(), v6()] {
            let stage = Stage::set(json!({}), address)?;
            let socket = stage.udp()?;
            let mut took = Vec::new();
            for (delay_ms, times) in [(1_u64, 20_u16), (20, 10), (500, 3)] {
                for i in 0..times {
                    took.push(look_up(&socket, i, &format!("delay{delay_ms}.test"))?.as_secs_f64());
                }
            }
            stage.catch_up()?;
            let delays: Vec<f64> = stage.server.take_delays().iter().map(Duration::as_secs_f64).collect();
            stage.check_counts("udp", &[(QUERIES, 33, 33), ("podmeter.dns.unmatched", 0, 0), ("podmeter.dns.retries", 0, 0)])?;
            let client = stage.lookups(None, "udp").context("no lookups")?;
            let server = stage.served(None, "udp").context("nothing served")?;
            // What the kernel sees at the client's socket lies between what the server did and what the client waited.
            let (least, most) = (delays.iter().sum::<f64>(), took.iter().sum::<f64>());
            for (who, histogram) in [("client", &client), ("server", &server)] {
                ensure!(histogram.count == 33, "{who}: {} lookups of 33", histogram.count);
                ensure!((least..=most).contains(&histogram.sum), "{who}: {} s, not from {least} to {most} s", histogram.sum);
                for q in [0.3, 0.75, 0.99] {
                    let rank = (q * 33.0_f64).ceil() as usize - 1;
                    let (low, high) = histogram.quantile_bounds(q).context("no quantile")?;
                    let (mut slowest, mut fastest) = (took.clone(), delays.clone());
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
                look_up(&socket, 100 * i as u16 + n, &format!("{word}.TEST"))?;
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
    fn retries_duplicates_forgeries_cut_answers_and_silence_are_counted_apart() {
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
        look_up(&socket, 4, "cut.test")?;
        // Seven that get no answer, two of them over TCP.
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
    fn of_name_servers_that_are_queried_at_once_all_but_the_first_answer_what_was_answered() {
        let stage = Stage::set(json!({}), v4())?;
        let others = [2, 3].map(|n| DnsServer::start(&stage.server_cgroup, SocketAddr::from(([127, 53, 0, n], 53))));
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
            // What was not queried stays what it is.
            inside(&stage.server_cgroup, || {
                let stranger = UdpSocket::bind("127.53.0.4:53").context("could not bind")?;
                let answer = dns::message(id ^ 0x5555, dns::ANSWER, &dns::question(name, dns::A), &[]);
                stranger.send_to(&answer, ("127.0.0.1", socket.local_addr()?.port())).context("could not send")
            })?;
            dns::receive(&socket)?;
        }
        stage.catch_up()?;
        let found = (number(stage.lookups(None, "udp")), number(stage.served(None, "udp")));
        ensure!(found == (20, 60), "{found:?} lookups, of 20 queried and 60 answered");
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
    fn a_container_that_lives_for_one_lookup_is_reported() {
        let stage = Stage::set(json!({}), v4())?;
        let short = Cgroup::new("dns-short")?;
        let socket = inside(&short, || dns::udp(stage.server.address()))?;
        look_up(&socket, 1, "delay30.test")?;
        socket.send(&query(2, "never.test"))?;
        drop(socket);
        let path = short.path().to_owned();
        short.remove()?;
        let found = |exports: &Exports| {
            let lookups = durations(exports, &path, LOOKUPS, None, "udp").map(|histogram| histogram.count);
            let abandoned = count(exports, &path, "podmeter.dns.abandoned", "client", "udp");
            (lookups == Some(1) && abandoned == 1).then_some(())
        };
        stage.agent.wait_for("the final values of a short container", 10 * SECOND, found)?;
        stage.agent.stop().map(drop)
    }
}
