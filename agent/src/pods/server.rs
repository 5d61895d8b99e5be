//! How the API server or a kubelet is reached: address, authorities, identity and proxy. All of it comes from files that others
//! replace while the agent runs, so it is read again for each new client, and a client ends when one of them has changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::{client::legacy, rt::TokioExecutor};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig},
};
use rustls::ClientConfig;
use tower::ServiceExt as _;
use tracing::{info, warn};

use super::api_error::ApiError;
use crate::{
    causes,
    config::Proxies,
    connect::{
        Connector,
        proxy::{self, Proxy},
    },
    files::Watched,
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Where Kubernetes puts the certificates that the API server's is signed by.
const AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// A server, as its files were when last read.
#[derive(Clone)]
pub struct Server {
    origin: ServerOrigin,
    config: Config,
    proxy: Option<Proxy>,
    /// What a change of leads to another client.
    files: Vec<PathBuf>,
    /// TLS as it could last be set up.
    tls: Option<Arc<ClientConfig>>,
    /// Why something could not be read again, as it was logged.
    logged: Option<String>,
}

/// Where the settings to reach a server come from.
#[derive(Clone)]
enum ServerOrigin {
    /// By the pod's service account.
    ServiceAccount(Proxies),
    /// By a kubeconfig.
    Kubeconfig(PathBuf, Proxies),
    /// podmeter's settings.
    Settings,
}

impl Server {
    /// The API of the cluster: by a kubeconfig, or as a pod of it.
    ///
    /// # Errors
    /// When the files are not there or not usable.
    pub async fn of_cluster(kubeconfig: Option<&PathBuf>, proxies: &Proxies) -> Result<Self, ApiError> {
        Self::read(match kubeconfig {
            None => ServerOrigin::ServiceAccount(proxies.clone()),
            Some(path) => ServerOrigin::Kubeconfig(path.clone(), proxies.clone()),
        })
        .await
    }

    /// A kubelet. It is this node's own: no proxy leads to it.
    pub fn kubelet(config: Config) -> Self {
        let files = config.root_cert_file.iter().cloned().collect();
        Self { origin: ServerOrigin::Settings, config: settled(config), proxy: None, files, tls: None, logged: None }
    }

    async fn read(origin: ServerOrigin) -> Result<Self, ApiError> {
        let (config, proxy, files) = match &origin {
            ServerOrigin::ServiceAccount(proxies) => {
                let config = Config::incluster().map_err(ApiError::InCluster)?;
                let proxy = proxy::from_environment(proxies, &config.cluster_url)?;
                (config, proxy, vec![AUTHORITY.into()])
            }
            ServerOrigin::Kubeconfig(path, proxies) => {
                let wrong = |source: kube::config::KubeconfigError| ApiError::kubeconfig(path, source);
                let mut kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
                let files = files(path, &kubeconfig);
                // Of its own: kube would hold NO_PROXY against the proxy's address instead of the server's.
                let named = take_proxy(&mut kubeconfig);
                let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(wrong)?;
                let proxy = match named {
                    // It is for this cluster: NO_PROXY does not apply, as in kubectl.
                    Some(url) => Some(proxy::named("proxy-url in the kubeconfig", &url, &config.cluster_url)?),
                    None => proxy::from_environment(proxies, &config.cluster_url)?,
                };
                (config, proxy, files)
            }
            ServerOrigin::Settings => unreachable!("a kubelet's settings are not read again"),
        };
        if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
            return Err(ApiError::NoAuthority);
        }
        Ok(Self { origin, config: settled(config), proxy, files, tls: None, logged: None })
    }

    /// For people: where it is, and by which proxy.
    pub fn address(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("{} by the proxy {proxy}", self.config.cluster_url),
            None => self.config.cluster_url.to_string(),
        }
    }

    /// The files whose change makes a client outdated, as they are before they are read.
    pub fn watched(&self) -> Watched {
        Watched::new(self.files.iter().cloned())
    }

    /// Reads everything again. What cannot be read stays as it was: it may be half written.
    pub async fn read_again(&mut self) {
        if matches!(self.origin, ServerOrigin::Settings) {
            return;
        }
        match Self::read(self.origin.clone()).await {
            Ok(read) => *self = Self { tls: self.tls.take(), logged: self.logged.take(), ..read },
            Err(error) => self.cannot_read(&causes::chain(&error)),
        }
    }

    fn cannot_read(&mut self, error: &str) {
        if self.logged.as_deref() != Some(error) {
            warn!("{error}; the files as last read are used to reach {} until they can be read again", self.address());
            self.logged = Some(error.to_owned());
        }
    }

    /// Makes a client. Reads tokens and certificates, and may run a program for them: blocks.
    ///
    /// # Errors
    /// When they cannot be had.
    pub fn client(&mut self) -> Result<Client, kube::Error> {
        let tls = match (self.config.rustls_client_config(), self.tls.clone()) {
            (Ok(tls), _) => {
                if self.logged.take().is_some() {
                    info!("the files that configure access to {} can be read again", self.address());
                }
                Arc::new(tls)
            }
            (Err(error), Some(before)) => {
                self.cannot_read(&causes::chain(&error));
                before
            }
            (Err(error), None) => return Err(error),
        };
        self.tls = Some(Arc::clone(&tls));
        let connector = Connector::new(self.proxy.clone(), CONNECT, Arc::new(move || Arc::clone(&tls)));
        let connector = connector.for_name(self.config.tls_server_name.clone());
        let client = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector).map_err(tower::BoxError::from);
        let layers = ClientBuilder::new(client, "default").with_layer(&self.config.extra_headers_layer()?);
        let base = self.config.base_uri_layer();
        Ok(match self.config.auth_layer()? {
            Some(auth) => layers.with_layer(&auth).with_layer(&base).build(),
            None => layers.with_layer(&base).build(),
        })
    }
}

/// What is the same for every server.
fn settled(mut config: Config) -> Config {
    // A program that is run for a token would take the terminal's input and write over `top`.
    if let Some(exec) = &mut config.auth_info.exec {
        exec.interactive_mode = Some(ExecInteractiveMode::Never);
    }
    config
}

/// The kubeconfig and those that its current context names.
fn files(path: &Path, kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let context = current(kubeconfig);
    let cluster = context.and_then(|context| kubeconfig.clusters.iter().find(|named| named.name == context.cluster));
    let user = context.and_then(|context| kubeconfig.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref()));
    let authority = cluster.and_then(|named| named.cluster.as_ref()?.certificate_authority.clone());
    let user = user.and_then(|named| named.auth_info.as_ref());
    let identity = user.into_iter().flat_map(|user| [user.client_certificate.clone(), user.client_key.clone()]).flatten();
    std::iter::once(path.to_owned()).chain(authority.into_iter().chain(identity).map(PathBuf::from)).collect()
}

fn current(kubeconfig: &Kubeconfig) -> Option<&kube::config::Context> {
    let name = kubeconfig.current_context.as_ref()?;
    kubeconfig.contexts.iter().find(|named| named.name == *name)?.context.as_ref()
}

/// The proxy of the current context's cluster; none is left in the kubeconfig.
fn take_proxy(kubeconfig: &mut Kubeconfig) -> Option<String> {
    let current = current(kubeconfig).map(|context| context.cluster.clone());
    let mut found = None;
    for named in &mut kubeconfig.clusters {
        let proxy = named.cluster.as_mut().and_then(|cluster| cluster.proxy_url.take()).filter(|url| !url.trim().is_empty());
        if Some(&named.name) == current.as_ref() {
            found = proxy;
        }
    }
    found
}

#[cfg(test)]
mod tests;
