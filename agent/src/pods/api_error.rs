//! Errors in the settings for the Kubernetes API or a kubelet.

use std::path::{Path, PathBuf};

use kube::config::KubeconfigError;

use crate::connect::proxy::ProxyError;

/// Why the API cannot be used: a setting that a person must correct.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Not in a cluster, or no service account.
    #[error("could not use the pod's service account: set kubernetes.kubeconfig, or kubernetes.source to off")]
    InCluster(#[source] kube::config::InClusterError),
    /// A kubeconfig that cannot be used.
    #[error("could not use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// A kubeconfig that is none. What is wrong is not shown: it would be shown with the lines around it, and those have tokens.
    #[error("could not use the kubeconfig {}: it is not the YAML of a kubeconfig{place}", path.display())]
    NoKubeconfig {
        /// The file.
        path: PathBuf,
        /// Where in it, if that is known.
        place: String,
    },
    /// No certificate where there should be some, as in the middle of a rotation.
    #[error("could not use the certificate authorities of the Kubernetes API: they contain no certificate")]
    NoAuthority,
    /// The environment's or the kubeconfig's proxy.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A file that cannot be read.
    #[error("could not read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// An address that is none.
    #[error("{url} is not a valid URL of a kubelet")]
    Url {
        /// The setting, as it may be shown.
        url: String,
        /// What is wrong.
        #[source]
        source: http::uri::InvalidUri,
    },
}

impl ApiError {
    /// A kubeconfig cannot be used, for this reason.
    pub fn kubeconfig(path: &Path, source: KubeconfigError) -> Self {
        let path = path.to_owned();
        match &source {
            KubeconfigError::Parse(error) => {
                let place = error.location().map(|at| format!(", line {}", at.line())).unwrap_or_default();
                Self::NoKubeconfig { path, place }
            }
            _ => Self::Kubeconfig { path, source: Box::new(source) },
        }
    }
}
