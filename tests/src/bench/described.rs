//! What each figure is, in a reader's words: docs/cost.md shows it beside the name.

/// The description of a figure.
pub fn what(name: &str) -> Option<&'static str> {
    DESCRIPTIONS.iter().find(|(figure, _)| *figure == name).map(|(_, what)| *what)
}

const DESCRIPTIONS: &[(&str, &str)] = &[
    ("node.programs_cpu_percent", "all programs together, of one core, without what as many runs of empty programs take"),
    ("node.programs_cpu_percent_with_statistics", "the same with what every program costs, and the kernel's statistics"),
    ("node.agent_cpu_percent", "CPU of the agent there, interval 15 s, of one core"),
    ("node.switch_ns_above_empty", "`cpu_on_switch` above an empty program on the same tracepoint"),
    ("node.switch_ns_empty", "the empty program itself"),
    ("node.packet_ns_above_empty_sent", "a small packet sent over UDP or TCP, above an empty program"),
    ("node.packet_ns_above_empty_received", "a small packet received over UDP or TCP, above an empty program"),
    ("node.packet_ns_empty_sent", "the empty program itself, per packet sent"),
    ("node.packet_ns_empty_received", "the empty program itself, per packet received"),
    ("node.switches_per_second", "switches per second in that measurement"),
    ("node.packets_per_second", "packets per second in that measurement, each way"),
    (
        "cpu.switch_ns_above_empty",
        "`cpu_on_switch` above an empty program on the same tracepoint, two processes that wake each other",
    ),
    ("cpu.switch_ns", "the same with what every program costs"),
    ("cpu.switch_ns_empty", "the empty program itself"),
    ("cpu.switch_ns_above_empty_100_cgroups", "`cpu_on_switch` above an empty program, among 100 pod-shaped cgroups"),
    ("cpu.switch_ns_100_cgroups", "the same with what every program costs"),
    ("cpu.switch_ns_empty_100_cgroups", "the empty program itself"),
    ("cpu.switches_per_second_100_cgroups", "switches per second in that measurement"),
    ("cpu.slowdown_percent_above_empty", "slowdown of two processes that only wake each other, above an empty program's"),
    ("cpu.slowdown_percent", "the same against no program"),
    ("cpu.slowdown_percent_empty", "the same of an empty program against none"),
    ("network.packet_ns_above_empty_udp_sent", "a 100-byte UDP packet sent, above an empty program"),
    ("network.packet_ns_above_empty_udp_received", "a 100-byte UDP packet received, above an empty program"),
    ("network.packet_ns_empty_udp", "an empty program, per UDP packet"),
    ("network.packet_ns_above_empty_tcp_sent", "a packet of a loopback TCP stream (up to 64 KiB) sent, above an empty program"),
    (
        "network.packet_ns_above_empty_tcp_received",
        "a packet of a loopback TCP stream (up to 64 KiB) received, above an empty program",
    ),
    ("network.packet_ns_empty_tcp", "an empty program, per TCP packet"),
    (
        "network.udp_slowdown_percent_above_empty",
        "a flood of small UDP packets, slowdown by the whole agent, above that by empty programs on the same hooks",
    ),
    ("network.udp_slowdown_percent_of_cpu_above_empty", "the same in CPU time per packet"),
    ("network.udp_slowdown_percent", "a flood of small UDP packets, slowdown by the whole agent"),
    ("network.udp_slowdown_percent_of_cpu", "the same in CPU time per packet"),
    (
        "network.tcp_slowdown_percent_above_empty",
        "a loopback TCP stream, slowdown by the whole agent, above that by empty programs on the same hooks",
    ),
    ("network.tcp_slowdown_percent_of_cpu_above_empty", "the same in CPU time per byte"),
    ("network.tcp_slowdown_percent", "a loopback TCP stream, slowdown by the whole agent"),
    ("network.tcp_slowdown_percent_of_cpu", "the same in CPU time per byte"),
    ("network.map_kib", "kernel memory of the network signal's maps"),
    ("dns.map_kib", "kernel memory of the dns signal's maps"),
    ("tcp.map_kib", "kernel memory of the tcp signal's maps"),
    ("drops.map_kib", "kernel memory of the drops signal's maps"),
    ("disk.map_kib", "kernel memory of the disk signal's maps"),
    ("disk.request_ns_above_empty", "one disk request, issue and completion, above empty programs"),
    ("disk.request_ns", "the same with what every program costs"),
    ("disk.request_ns_empty", "the empty programs themselves"),
    ("dns.pair_ns_above_empty", "one lookup at one end, query and answer, above an empty program"),
    ("dns.pair_ns", "the same with what every program costs"),
    ("dns.pair_ns_empty", "the empty program itself"),
    ("agent.map_kib", "kernel memory of all maps"),
    ("agent.map_kib_per_cpu", "the part of it that each CPU adds"),
    ("agent.map_mib_2_cpus", "kernel memory of all maps with 2 048 slots, 2 CPUs"),
    ("agent.map_mib_128_cpus", "the same with 128 CPUs"),
    ("agent.start_to_first_export_seconds", "start to the first export"),
    ("export.bytes_per_cgroup", "OTLP, gzip, per cgroup and export"),
    ("agent.cpu_percent_1s", "CPU of the agent, interval 1 s, of one core"),
    ("agent.cpu_percent_15s", "CPU of the agent, interval 15 s, of one core"),
    ("agent.tick_ms", "CPU time of what the agent does each second"),
    ("agent.collection_ms", "CPU time to read, encode and compress an export"),
    ("agent.kernel_cpu_percent", "CPU of all programs in the kernel, of one core"),
    ("agent.kernel_runs_per_second", "runs of programs per second in that measurement"),
    ("agent.rss_mib", "memory after an export"),
    ("agent.rss_peak_mib", "memory at its peak, while it loads its programs or exports"),
    ("kubernetes.rss_mib", "a node's pods followed: memory after an export"),
    ("kubernetes.rss_peak_mib", "the same at its peak"),
    ("kubernetes.rss_above_no_kubernetes_mib", "what following pods adds to the memory"),
    ("kubernetes.cpu_percent_15s", "a node's pods followed: CPU, interval 15 s, of one core"),
    ("kubernetes.tick_ms", "a node's pods followed: CPU time of what the agent does each second"),
    ("kubernetes.collection_ms", "a node's pods followed: CPU time to read, encode and compress an export"),
    ("kubernetes.requests_per_hour", "requests to the API server, idle"),
    ("kubernetes.start_to_labelled_seconds", "start of a container to its first sample with its name, interval 1 s"),
    (
        "journal.bytes_per_collection_100_cgroups",
        "bytes on disk of a collection of 100 cgroups and their pods, which use a little CPU and nothing else",
    ),
    ("journal.hours_100_cgroups", "what the default of 256 MiB holds of those, interval 15 s"),
    ("journal.bytes_per_collection_1000_cgroups", "the same of 1 000 cgroups"),
    ("journal.hours_1000_cgroups", "what the default of 256 MiB holds of those, interval 15 s"),
    ("journal.write_mb_per_second", "write of requests of 512 KiB into 256 MiB, a sync in every 8 MiB included"),
    ("journal.write_ms", "one such write; the longest has a sync in it"),
    ("journal.read_mb_per_second", "read of the same requests from the page cache, to send them"),
    ("journal.recovery_ms", "start with a full journal after `kill -9`: until it can be written, from the page cache"),
    ("journal.recovery_from_disk_ms", "the same where nothing of it is in the page cache"),
    ("journal.rss_full_mib", "memory after an export with a full journal"),
    ("journal.rss_above_no_journal_mib", "what a full journal adds to the memory"),
    ("pull.rss_above_off_mib", "what `export.pull` adds to the memory, scraped after each collection"),
    ("pull.scrape_ms", "one scrape of all of it in OpenMetrics with gzip, to the last byte"),
    ("memory.walk_ms", "memory of all cgroups by the walk in the kernel"),
    ("memory.files_ms", "the same by files"),
    ("memory.walk_over_files", "the walk's part of the time that files take"),
    ("soak.rss_growth_mib", "growth of the agent's memory within the hour, after the first 5 minutes"),
    ("soak.rss_mib", "memory at the end of that hour"),
];

#[cfg(test)]
mod tests {
    use super::super::{agent, disk, dns, journal, kubernetes, memory, network, node, pull, soak, switches};
    use super::*;

    #[test]
    fn every_figure_is_described() {
        let figures = [
            &node::NODE[..],
            &switches::IN_CACHE,
            &switches::AMONG_PODS,
            &switches::SLOWDOWN,
            &network::PER_PACKET,
            &network::SLOWDOWN,
            &network::MAPS,
            &disk::PER_REQUEST,
            &dns::PER_PAIR,
            &agent::MAPS,
            &agent::START,
            &agent::BYTES,
            &agent::EVERY_1_S,
            &agent::EVERY_15_S,
            &kubernetes::WATCHING,
            &kubernetes::LABELLED,
            &journal::SMALL,
            &journal::FULL,
            &pull::MEMORY,
            &memory::PASS,
            &soak::GROWTH,
        ];
        let figures = figures.concat();
        assert_eq!(figures.len(), DESCRIPTIONS.len());
        assert!(figures.iter().all(|name| what(name).is_some()), "{figures:?}");
    }
}
