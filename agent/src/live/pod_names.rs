//! What pods are called, for people who look: followed on a thread of its own, so that a server that is slow holds up nothing.

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

/// How long a single snapshot waits for the first list of pods: it has no second one to show names in.
pub const FIRST_LIST: Duration = Duration::from_secs(3);

/// Time between two looks whether it is there.
const POLL: Duration = Duration::from_millis(5);

/// Followed until this is dropped.
pub struct PodNames {
    shared: SharedIndex,
    /// The thread ends when it is gone.
    _stop: oneshot::Sender<()>,
}

impl PodNames {
    /// Begins to follow the pods, and asks for nothing but what names need.
    ///
    /// # Errors
    /// When a person must correct a setting. A server that does not answer is none.
    pub fn follow(settings: pods::FollowSettings) -> Result<Self, RunError> {
        let system = |what| move |source| RunError::System { what, source };
        let settings = pods::FollowSettings { kept_labels: KeptLabels::default(), spread: Duration::ZERO, ..settings };
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
    pub fn shared(&self) -> SharedIndex {
        self.shared.clone()
    }

    /// How the pods are followed now.
    pub fn state(&self) -> KubernetesStatus {
        let known = self.shared.snapshot();
        let following = known.stats.following(Followed::Pods);
        let error = known.stats.trouble().map(|trouble| trouble.reason.to_string());
        KubernetesStatus { current: following.known && following.current, error }
    }

    /// Waits until all pods have been told of, and not longer than `most`, nor for what a person must correct.
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
                    return Err(format!("the pods were not there within {} s", most.as_secs_f64()));
                }
                _ => thread::sleep(POLL),
            }
        }
    }
}

/// Whether a failure of this kind may be over in a moment.
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
            // Whoever looks does not wait for it.
            spread: Duration::from_secs(3600),
            finished_kept: Duration::ZERO,
        };
        PodNames::follow(settings).unwrap()
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
        names.wait(Duration::from_secs(30)).unwrap();
        answering.join().unwrap();
        let known = names.shared().snapshot();
        assert_eq!(known.find("u", None).map(|found| found.pod.name.to_string()).as_deref(), Some("web-1"));
        assert_eq!(known.stats.trouble(), None);
    }

    #[test]
    fn a_server_that_does_not_answer_is_waited_for_no_longer_than_allowed() {
        // It takes the connection, and that is all.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let names = follow(&server);
        let began = Instant::now();
        assert_eq!(names.wait(Duration::from_millis(100)), Err("the pods were not there within 0.1 s".to_owned()));
        drop(names);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn a_server_that_is_not_there_is_said_at_once() {
        // Nobody listens where somebody did.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let names = {
            let names = follow(&server);
            drop(server);
            names
        };
        let began = Instant::now();
        let said = names.wait(Duration::from_secs(30)).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(said.contains(&address.to_string()) && said.contains("refused"), "{said}");
        let known = names.shared().snapshot();
        assert_eq!(known.stats.trouble().map(|trouble| &*trouble.reason), Some(&*said), "and it goes on being said");
    }
}
