//! What a running process is made of, and how it is made anew while connections go on.
//!
//! A reload reads the file again, opens what it adds, and only then puts the whole in force: one
//! [`Generation`] replaces the other. Connections keep the one they were accepted under. Ticket keys
//! stay, so that sessions can be resumed: every configuration authenticates clients alike, by no
//! certificate. Should that become a setting, tickets must not pass from one setting to another.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::ProducesTickets;

use super::StartError;
use super::listen::{Changed, Listeners};
use super::watch::CertificateWatch;
use crate::config::{self, Config, ConfigError, Loaded, Warning};
use crate::metrics::{self, Counter};
use crate::serve::Routes;
use crate::tls::certificate;
use crate::tls::server_config::TlsSetup;
use crate::tls::setup::{self, Prepared};
use crate::upstream::Upstreams;
use crate::worker::{Generation, ListenerId};

/// A configuration file that was read, with everything it names.
#[derive(Debug)]
pub struct Read {
    /// The configuration.
    pub config: Config,
    /// What its owner should know.
    pub warnings: Vec<Warning>,
    /// Its TLS side.
    pub tls: TlsSetup,
    certificates: Vec<certificate::Loaded>,
    watch: CertificateWatch,
}

/// Where a configuration comes from, and what outlives it.
pub struct Origin {
    /// The file, absolute.
    pub path: PathBuf,
    tickets: Arc<dyn ProducesTickets>,
    certificates: Vec<certificate::Loaded>,
    watch: CertificateWatch,
}

/// Why a reload changed nothing.
#[derive(Debug)]
pub enum ReloadError {
    /// The file, or what it names, cannot be used.
    Config(ConfigError),
    /// An address cannot be listened on, or a root cannot be used.
    Start(StartError),
}

/// A configuration whose listeners are open already, to be put in force.
pub struct Reloaded {
    /// The new generation.
    pub generation: Generation,
    /// What workers have to be told.
    pub open: Vec<Vec<(ListenerId, OwnedFd)>>,
    /// Listeners to close.
    pub close: Vec<ListenerId>,
    /// What the owner should know, what waits for a restart included.
    pub notes: Vec<String>,
}

/// Reads the file at `path` and everything it names.
///
/// # Errors
/// Every problem found, in the words of `portcullis check`.
pub fn read(path: &Path, tickets: &Arc<dyn ProducesTickets>) -> Result<Read, ConfigError> {
    let loaded = config::load(path)?;
    // Looked at before they are read: a change in between is seen by the next look.
    let watch = CertificateWatch::new(&loaded.config);
    let prepared = setup::prepare(&loaded, tickets, SystemTime::now())?;
    let Loaded {
        config,
        mut warnings,
        ..
    } = loaded;
    let Prepared {
        tls,
        certificates,
        warnings: of_certificates,
    } = prepared;
    warnings.extend(of_certificates);
    Ok(Read {
        config,
        warnings,
        tls,
        certificates,
        watch,
    })
}

impl Read {
    /// The configuration and its TLS side, and what is needed to read the file at `path` again.
    ///
    /// # Errors
    /// When the path cannot be made absolute.
    pub fn into_parts(
        self,
        path: &Path,
        tickets: Arc<dyn ProducesTickets>,
    ) -> std::io::Result<(Config, TlsSetup, Origin)> {
        let origin = Origin {
            // Not resolved: a link may lead elsewhere tomorrow.
            path: std::path::absolute(path)?,
            tickets,
            certificates: self.certificates,
            watch: self.watch,
        };
        Ok((self.config, self.tls, origin))
    }
}

impl Origin {
    /// Reads the file again and carries out what it says of the listeners. `running` is what was in
    /// force until then, `workers` their number.
    ///
    /// # Errors
    /// See [`ReloadError`]. Nothing has changed then.
    pub fn reload(
        &mut self,
        running: &Generation,
        listeners: &mut Listeners,
        workers: usize,
    ) -> Result<Reloaded, ReloadError> {
        let mut read = read(&self.path, &self.tickets).map_err(ReloadError::Config)?;
        super::fit_descriptors(&mut read.config, workers);
        let config = Arc::new(read.config);
        let routes = Routes::new(config.clone(), read.tls.site_policies())
            .map_err(|error| ReloadError::Start(StartError::Io("use the roots", error)))?;
        let upstreams = Upstreams::new(&config, read.tls.upstreams(), Some(&running.upstreams))
            .map_err(|error| ReloadError::Start(StartError::Io("watch the upstreams", error)))?;
        let access_logs =
            super::open_access_logs(&config, &running.access_logs).map_err(ReloadError::Start)?;
        let change = listeners
            .plan(&config.listeners, &config.tcp)
            .map_err(|error| ReloadError::Start(error.into()))?;
        let Changed {
            open,
            close,
            listeners: spoken,
        } = listeners.apply(change, &config.tcp);
        let mut notes: Vec<String> = read.warnings.iter().map(ToString::to_string).collect();
        notes.extend(needs_restart(&running.config, &config));
        self.certificates = read.certificates;
        self.watch = read.watch;
        let certificate_expiries = self.expiries();
        Ok(Reloaded {
            generation: Generation {
                config,
                tls: Arc::new(read.tls),
                routes: Arc::new(routes),
                upstreams: Arc::new(upstreams),
                listeners: spoken,
                access_logs,
                certificate_expiries,
            },
            open,
            close,
            notes,
        })
    }

    /// By site: when its certificate expires.
    pub fn expiries(&self) -> Vec<SystemTime> {
        let expires = |loaded: &certificate::Loaded| loaded.expires;
        self.certificates.iter().map(expires).collect()
    }

    /// Looks whether certificate files have changed, and loads those that have. A pair that cannot be
    /// used is told of and counted, and the one before stays. `None` when nothing is new.
    pub fn renew_certificates(&mut self, running: &Generation) -> Option<Generation> {
        let mut is_new = false;
        for index in self.watch.changed() {
            let site = running.config.sites.get(index)?;
            let file = site.certificate_file.display();
            match certificate::load(site, SystemTime::now()) {
                Ok(loaded) => {
                    metrics::count(Counter::CertificatesReloaded);
                    tracing::info!(%file, "certificate reloaded");
                    for warning in &loaded.warnings {
                        tracing::warn!("{warning}");
                    }
                    *self.certificates.get_mut(index)? = loaded;
                    is_new = true;
                }
                Err(error) => {
                    metrics::count(Counter::CertificatesRefused);
                    tracing::error!(%file, %error, "a new certificate is refused, the old one stays");
                }
            }
        }
        if !is_new {
            return None;
        }
        let authorities = running.tls.client_authorities().clone();
        let tls = setup::assemble(
            &running.config,
            &self.certificates,
            authorities,
            &self.tickets,
        );
        match tls {
            Ok(tls) => Some(Generation {
                config: running.config.clone(),
                tls: Arc::new(tls.with_upstreams(running.tls.upstreams().to_vec())),
                routes: running.routes.clone(),
                upstreams: running.upstreams.clone(),
                listeners: running.listeners.clone(),
                access_logs: running.access_logs.clone(),
                certificate_expiries: self.expiries(),
            }),
            Err(problem) => {
                tracing::error!(
                    problem = problem.message,
                    "certificates cannot be put in force"
                );
                None
            }
        }
    }
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReloadError {}

/// What `new` says and only a restart can bring.
fn needs_restart(running: &Config, new: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    if running.workers != new.workers {
        notes.push("workers.count has changed: it takes effect at the next start".to_owned());
    }
    if running.admin != new.admin {
        notes.push("[admin] has changed: it takes effect at the next start".to_owned());
    }
    notes
}
