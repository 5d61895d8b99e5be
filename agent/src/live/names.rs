//! What pods are called, for people who look: followed on a thread of its own, so that a server that is slow holds up nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    pods::{self, Shared, figures::Followed, object::Wanted},
    run::RunError,
};

/// How long a single snapshot waits for the first list of pods: it has no second one to show names in.
pub const FIRST_LIST: Duration = Duration::from_secs(3);

/// Time between two looks whether it is there.
const POLL: Duration = Duration::from_millis(5);

/// Followed until this is dropped.
pub struct Names {
    shared: Shared,
    /// The thread ends when it is gone.
    _stop: oneshot::Sender<()>,
}

impl Names {
    /// Begins to follow the pods, and asks for nothing but what names need.
    ///
    /// # Errors
    /// When a person must correct a setting. A server that does not answer is none.
    pub fn follow(settings: pods::Settings) -> Result<Self, RunError> {
        let system = |what| move |source| RunError::System { what, source };
        let settings = pods::Settings { wanted: Wanted::default(), at_once: true, ..settings };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("the runtime"))?;
        let shared = runtime.block_on(pods::follow(settings))?;
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || {
                // Ends with an error, because the other end never says anything.
                let _ = runtime.block_on(stopped);
                // A name look-up that hangs must not hold up the end.
                runtime.shutdown_background();
            })
            .map_err(system("the thread that follows the pods"))?;
        Ok(Self { shared, _stop: stop })
    }

    /// Where the names are.
    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Waits until all pods have been told of, and not longer than `most`; whether they have.
    pub fn wait(&self, most: Duration) -> bool {
        let end = Instant::now() + most;
        loop {
            if self.shared.lock().figures.following(Followed::Pods).known {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    fn follow(server: &TcpListener) -> Names {
        let settings = pods::Settings {
            source: pods::Source::Kubelet {
                url: format!("http://{}", server.local_addr().unwrap()),
                ca: None,
                verify: true,
                token: None,
                interval: Duration::from_secs(60),
            },
            node: "node-1".to_owned(),
            wanted: Wanted::default(),
            at_once: false,
            proxies: Default::default(),
        };
        Names::follow(settings).unwrap()
    }

    #[test]
    fn the_first_list_is_waited_for_and_asked_for_at_once() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let names = follow(&server);
        let answering = thread::spawn(move || {
            let (mut client, _) = server.accept().unwrap();
            let _ = client.read(&mut [0; 4096]).unwrap();
            let list = r#"{"items": [{"metadata": {"uid": "u", "name": "web-1", "namespace": "shop"}}]}"#;
            write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{list}", list.len()).unwrap();
        });
        assert!(names.wait(Duration::from_secs(30)));
        answering.join().unwrap();
        let known = names.shared();
        assert_eq!(known.lock().find("u", None).map(|found| found.pod.name.to_string()).as_deref(), Some("web-1"));
    }

    #[test]
    fn a_server_that_does_not_answer_is_waited_for_no_longer_than_allowed() {
        // It takes the connection, and that is all.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let names = follow(&server);
        let began = Instant::now();
        assert!(!names.wait(Duration::from_millis(100)));
        drop(names);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
