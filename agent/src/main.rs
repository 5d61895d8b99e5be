//! podmeter: what every container on this node really uses, measured in the kernel, exported as OTLP.
mod aggregate;
mod cgroups;
mod config;
mod export;
mod histogram;
mod join;
mod kernel;
mod pipeline;
mod signals;
mod top;
fn main() {
    let node = join::Node { name: "here".into(), ..Default::default() };
    let mut p = pipeline::Pipeline::start(pipeline::Settings {
        node,
        cgroup_root: None,
        slots: 1024,
        pin_directory: "/sys/fs/bpf/podmeter".into(),
        pin: false,
        disabled: vec![],
    })
    .unwrap_or_else(|e| {
        eprintln!("{}", pipeline::chain(&e));
        std::process::exit(3)
    });
    let mut v = top::views::Views::new("here".into(), 2.0);
    for s in p.states() {
        eprintln!("{} {:?}", s.signal.name, s.off);
    }
    for _ in 0..5 {
        let b = p.collect(|n, e| eprintln!("{n}: {e}"));
        let view = v.next(&b);
        println!("{}", top::once::table(&view));
        std::thread::sleep(std::time::Duration::from_secs(1));
        p.tick().unwrap();
    }
}
