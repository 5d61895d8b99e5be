//! It answers as scripted.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

fn post(collector: &Collector) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(collector.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let request = "POST /v1/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-protobuf\r\n\
                   Content-Length: 0\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}

#[test]
fn it_answers_as_scripted_and_comes_back_on_its_port_without_a_runtime_around_it() -> Result<()> {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset};
    let collector = Collector::start()?;
    collector.next(1, Answer::Http { status: 503, retry_after: Some("7".into()) });
    collector.next(1, Answer::Reset);
    let reply = post(&collector)?;
    assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("retry-after: 7"), "{reply}");
    assert_eq!(post(&collector).map_err(|e| e.kind()), Err(ConnectionReset));
    collector.refuse();
    assert_eq!(post(&collector).map_err(|e| e.kind()), Err(ConnectionRefused));
    collector.listen();
    assert!(post(&collector)?.starts_with("HTTP/1.1 200"));
    collector.wait_until("one request", |c| c.received().len() == 1)?;
    assert_eq!(collector.attempts(), 3);
    Ok(())
}
