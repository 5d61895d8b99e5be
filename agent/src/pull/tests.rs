use prost::encoding;

use super::*;
use crate::{
    histogram::Histogram,
    join::{Resource, Sample},
    kernel::clock::UnixOffset,
    metric::{Metric, Point, Scope, Value},
};

static TIME: Metric = Metric::counter("container.cpu.time", "s", Scope::Cgroup, "CPU time \"used\".\\").attributes(&["cause"]);
static USAGE: Metric = Metric::gauge("container.cpu.usage", "{cpu}", Scope::Cgroup, "CPUs used.");
static WAIT: Metric = Metric::histogram("podmeter.cpu.wait", "s", Scope::Cgroup, "Waiting.");

const SECOND: u64 = 1_000_000_000;

fn sample(path: &str, points: Vec<Point>) -> Sample {
    Sample::new(Arc::new(Resource::new([("host.arch", "arm"), ("podmeter.cgroup.path", path)], 0)), points)
}

fn batch() -> Batch {
    let histogram =
        Histogram { count: 10, sum: 3.5, zero_count: 6, zero_threshold: f64::from(-19).exp2(), offset: -2, buckets: vec![1, 3] };
    let before = vec![Point::new(&TIME, SECOND, Value::Float(7.0)).with("cause", "a")];
    let points = vec![
        Point::new(&TIME, 2_500_000_000, Value::Float(1.5)).with("cause", "a"),
        Point::new(&TIME, 90 * SECOND, Value::Int(2)).with("cause", "b\"\\\n"),
        Point::new(&USAGE, 0, Value::Float(0.25)),
        Point::new(&WAIT, SECOND, Value::Histogram(Arc::new(histogram))),
    ];
    let absent = vec![Point::new(&USAGE, 0, Value::Absent), Point::new(&USAGE, 0, Value::Float(f64::NAN))];
    let pods = vec![sample("/a", before), sample("/a", points), sample("/gone", absent)];
    Batch { time_ns: 60 * SECOND, offset: UnixOffset::new(1000 * SECOND as i64), pods, ..Batch::default() }
}

fn text(format: Format) -> String {
    String::from_utf8(render(&batch(), format, false, 64)).expect("text")
}

#[test]
fn openmetrics_has_each_series_once_with_its_start_and_ends_with_eof() {
    let text = text(Format::OpenMetrics);
    let begin = r##"# HELP target What each resource is: its attributes as labels, also those that are no labels of other series.
# TYPE target info
target_info{host_arch="arm",podmeter_cgroup_path="/a"} 1
target_info{host_arch="arm",podmeter_cgroup_path="/gone"} 1
# HELP container_cpu_time_seconds CPU time \"used\".\\
# TYPE container_cpu_time_seconds counter
# UNIT container_cpu_time_seconds seconds
container_cpu_time_seconds_total{podmeter_cgroup_path="/a",cause="a"} 1.5
container_cpu_time_seconds_created{podmeter_cgroup_path="/a",cause="a"} 1002.500
container_cpu_time_seconds_total{podmeter_cgroup_path="/a",cause="b\"\\\n"} 2
container_cpu_time_seconds_created{podmeter_cgroup_path="/a",cause="b\"\\\n"} 1060.000
# HELP container_cpu_usage CPUs used.
# TYPE container_cpu_usage gauge
container_cpu_usage{podmeter_cgroup_path="/a"} 0.25
# HELP podmeter_cpu_wait_seconds Waiting.
# TYPE podmeter_cpu_wait_seconds histogram
# UNIT podmeter_cpu_wait_seconds seconds
podmeter_cpu_wait_seconds_bucket{podmeter_cgroup_path="/a",le="3.0517578125e-5"} 6
"##;
    assert!(text.starts_with(begin), "{text}");
    let end = r##"podmeter_cpu_wait_seconds_bucket{podmeter_cgroup_path="/a",le="1.0"} 10
podmeter_cpu_wait_seconds_bucket{podmeter_cgroup_path="/a",le="2.0"} 10
podmeter_cpu_wait_seconds_bucket{podmeter_cgroup_path="/a",le="4.0"} 10
podmeter_cpu_wait_seconds_bucket{podmeter_cgroup_path="/a",le="8.0"} 10
podmeter_cpu_wait_seconds_bucket{podmeter_cgroup_path="/a",le="16.0"} 10
podmeter_cpu_wait_seconds_bucket{podmeter_cgroup_path="/a",le="32.0"} 10
podmeter_cpu_wait_seconds_bucket{podmeter_cgroup_path="/a",le="+Inf"} 10
podmeter_cpu_wait_seconds_sum{podmeter_cgroup_path="/a"} 3.5
podmeter_cpu_wait_seconds_count{podmeter_cgroup_path="/a"} 10
podmeter_cpu_wait_seconds_created{podmeter_cgroup_path="/a"} 1001.000
# EOF
"##;
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn prometheus_text_has_the_same_series_without_what_it_does_not_know() {
    let text = text(Format::Text);
    assert!(!text.contains("_created") && !text.contains("# EOF") && !text.contains("# UNIT") && !text.contains(" info\n"));
    assert!(text.contains(
        "# HELP container_cpu_time_seconds_total CPU time \"used\".\\\\\n# TYPE container_cpu_time_seconds_total counter\n"
    ));
    assert!(text.contains("container_cpu_time_seconds_total{podmeter_cgroup_path=\"/a\",cause=\"a\"} 1.5\n"), "{text}");
    assert!(text.contains("# TYPE target_info gauge\n"));
}

#[test]
fn protobuf_has_a_message_behind_its_length_for_each_family() {
    let bytes = render(&batch(), Format::Protobuf, false, 64);
    let (mut rest, mut names) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let len = encoding::decode_varint(&mut rest).expect("a length") as usize;
        let (message, behind) = rest.split_at(len);
        let name = crate::protobuf::fields(message).next().expect("a name");
        assert_eq!(name.number, 1);
        names.push(String::from_utf8_lossy(name.value).into_owned());
        rest = behind;
    }
    assert_eq!(names, ["target_info", "container_cpu_time_seconds_total", "container_cpu_usage", "podmeter_cpu_wait_seconds"]);
}

#[tokio::test]
async fn requests_that_cannot_be_answered_get_the_reason() {
    let pull = Pull::new(Duration::from_secs(1), 64);
    let none = HeaderMap::new();
    let answer = pull.answer(&Method::GET, &none).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    pull.keep(batch());
    let answer = pull.answer(&Method::POST, &none).await;
    assert_eq!((answer.status, answer.allow), (StatusCode::METHOD_NOT_ALLOWED, Some("GET, HEAD")));
    let json = HeaderMap::from_iter([(header::ACCEPT, "application/json".parse().expect("a value"))]);
    let answer = pull.answer(&Method::GET, &json).await;
    assert_eq!(answer.status, StatusCode::NOT_ACCEPTABLE);
    assert!(String::from_utf8_lossy(&answer.body).contains("application/openmetrics-text; version=1.0.0"), "{answer:?}");
    let mut taken = Vec::new();
    for _ in 0..SCRAPES {
        taken.push(pull.answer(&Method::GET, &none).await);
    }
    assert!(taken.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!(pull.answer(&Method::GET, &none).await.status, StatusCode::SERVICE_UNAVAILABLE);
    taken.pop();
    assert_eq!(pull.answer(&Method::GET, &none).await.status, StatusCode::OK);
}
