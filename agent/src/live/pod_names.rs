//! Pod names for `podmeter top`: follows the pods on a thread, so that a slow API server delays nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    pods::{
        self, SharedIndex,
        failure::FollowErrorKind,
        follow_stats::{Followed, Trouble},
        object::KeptLabels,
    },
    run::RunError,
    snapshot::document::KubernetesStatus,
};

/// How long `--once` waits for the first list of pods. The live view does not wait.
pub const FIRST_LIST: Duration = Duration::from_secs(3);

/// Time between two checks for it.
const POLL: Duration = Duration::from_millis(5);

/// Follows the pods until it is dropped.
pub struct PodNames {
    shared: SharedIndex,
    /// The thread ends when it is gone.
    _stop: oneshot::Sender<()>,
}

impl PodNames {
    /// Begins to follow the pods. Requests only what names need.
    ///
    /// # Errors
    /// When a setting is wrong. A server that does not respond is no error.
    pub fn follow(settings: pods::FollowSettings) -> Result<Self, RunError> {
        let system = |what| move |source| RunError::System { what, source };
        let settings = pods::FollowSettings { kept_labels: KeptLabels::default(), spread: Duration::ZERO, ..settings };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("the runtime"))?;
        let shared = runtime.block_on(pods::follow(settings))?;
        let (stop, stopped) = oneshot::channel();
        thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || {
                // Ends with an error when the other end is dropped.
                let _ = runtime.block_on(stopped);
                // A DNS lookup that hangs must not delay the exit.
                runtime.shutdown_background();
            })
            .map_err(system("the thread that follows the pods"))?;
        Ok(Self { shared, _stop: stop })
    }

    /// The index of the pods.
    pub fn shared(&self) -> SharedIndex {
        self.shared.clone()
    }

    /// Whether the list of pods is current.
    pub fn state(&self) -> KubernetesStatus {
        let known = self.shared.snapshot();
        let following = known.stats.following(Followed::Pods);
        let error = known.stats.trouble().map(|trouble| trouble.reason.to_string());
        KubernetesStatus { current: following.known && following.current, error }
    }

    /// Waits for the first list of pods, at most for `most`. Errors that do not pass, such as 403, end the wait.
    ///
    /// # Errors
    /// Why pods have no names, in one sentence.
    pub fn wait(&self, most: Duration) -> Result<(), String> {
        let end = Instant::now() + most;
        loop {
            let known = self.shared.snapshot();
            if known.stats.following(Followed::Pods).known {
                return Ok(());
            }
            let trouble = known.stats.following(Followed::Pods).trouble.as_ref();
            match trouble {
                Some(Trouble { kind, reason }) if !passes(*kind) || Instant::now() >= end => return Err(reason.to_string()),
                None if Instant::now() >= end => {
                    return Err(format!("no list of pods within {} s", most.as_secs_f64()));
                }
                _ => thread::sleep(POLL),
            }
        }
    }
}

/// Whether a failure of this kind may pass.
fn passes(kind: FollowErrorKind) -> bool {
    matches!(
        kind,
        FollowErrorKind::Timeout
            | FollowErrorKind::Broken
            | FollowErrorKind::Expired
            | FollowErrorKind::Throttled
            | FollowErrorKind::Status
    )
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    fn follow(server: &TcpListener) -> PodNames {
        let settings = pods::FollowSettings {
            source: pods::PodSource::Kubelet {
                url: format!("http://{}", server.local_addr().unwrap()),
                ca: None,
                verify: true,
                token: None,
                interval: Duration::from_secs(60),
            },
            node: "node-1".to_owned(),
            kept_labels: KeptLabels::default(),
            proxies: Default::default(),
            // Not used here.
            spread: Duration::from_secs(3600),
            finished_kept: Duration::ZERO,
        };
        PodNames::follow(settings).unwrap()
    }

    #[test]
    fn the_first_list_is_waited_for_and_requested_at_once() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let names = follow(&server);
        let answering = thread::spawn(move || {
            let (mut client, _) = server.accept().unwrap();
            let _ = client.read(&mut [0; 4096]).unwrap();
            let list = r#"{"items": [{"metadata": {"uid": "u", "name": "web-1", "namespace": "shop"}}]}"#;
            write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{list}", list.len()).unwrap();
        });
        names.wait(Duration::from_secs(30)).unwrap();
        answering.join().unwrap();
        let known = names.shared().snapshot();
        assert_eq!(known.find("u", None).map(|found| found.pod.name.to_string()).as_deref(), Some("web-1"));
        assert_eq!(known.stats.trouble(), None);
    }

    #[test]
    fn a_server_that_does_not_respond_is_waited_for_no_longer_than_allowed() {
        // It accepts the connection and never responds.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let names = follow(&server);
        let began = Instant::now();
        assert_eq!(names.wait(Duration::from_millis(100)), Err("no list of pods within 0.1 s".to_owned()));
        drop(names);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn a_server_that_is_not_there_is_reported_at_once() {
        // A port that is closed.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let names = {
            let names = follow(&server);
            drop(server);
            names
        };
        let began = Instant::now();
        let error = names.wait(Duration::from_secs(30)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(error.contains(&address.to_string()) && error.contains("refused"), "{error}");
        let known = names.shared().snapshot();
        assert_eq!(known.stats.trouble().map(|trouble| &*trouble.reason), Some(&*error), "and it stays reported");
    }
}
