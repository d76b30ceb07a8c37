//! nginx, set up as its documentation advises for each service.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Demand, Server, Service, Site};
use crate::Failure;
use crate::arguments::Arguments;
use crate::fixture::Version;
use crate::tools::{self, Wanted};

#[derive(Debug)]
pub(super) struct Nginx {
    name: &'static str,
    /// Whether OpenSSL is told to use kernel TLS where it can.
    kernel_tls: bool,
    program: PathBuf,
    stream: Stream,
}

/// The module that passes bytes on.
#[derive(Debug)]
enum Stream {
    BuiltIn,
    Loadable(PathBuf),
    Missing,
}

impl Nginx {
    pub(super) fn new(
        name: &'static str,
        kernel_tls: bool,
        program: PathBuf,
        arguments: &Arguments,
    ) -> Result<Self, Failure> {
        let built = tools::all_output(Command::new(&program).arg("-V"))?;
        Ok(Self {
            name,
            kernel_tls,
            stream: Stream::find(&built, arguments)?,
            program,
        })
    }
}

impl Stream {
    /// `built` is the output of `nginx -V`.
    fn find(built: &str, arguments: &Arguments) -> Result<Self, Failure> {
        let mut options = built.split_ascii_whitespace();
        if options.clone().any(|option| option == "--with-stream") {
            return Ok(Self::BuiltIn);
        }
        let Some(folder) = options.find_map(|option| option.strip_prefix("--modules-path=")) else {
            return Ok(Self::Missing);
        };
        let module = Path::new(folder).join("ngx_stream_module.so");
        let wanted = Wanted::package(&module, "libnginx-mod-stream");
        Ok(match wanted.provide(arguments)? {
            Ok(module) => Self::Loadable(module),
            Err(line) => {
                eprintln!("{line}");
                Self::Missing
            }
        })
    }
}

impl Server for Nginx {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> Result<String, Failure> {
        // "running with" is there only when the library at hand is not the one built with.
        let text = tools::all_output(Command::new(&self.program).arg("-V"))?;
        let facts: Vec<&str> = text
            .lines()
            .filter_map(|line| {
                line.strip_prefix("nginx version: ")
                    .or_else(|| line.starts_with("built with ").then_some(line))
            })
            .map(str::trim)
            .collect();
        Ok(facts.join(", "))
    }

    fn unable(&self, demand: Demand) -> Option<&'static str> {
        (demand.service == Service::Tunnel && matches!(self.stream, Stream::Missing))
            .then_some("its stream module is missing (Debian has it as libnginx-mod-stream)")
    }

    fn asks_for_kernel_tls(&self) -> bool {
        self.kernel_tls
    }

    fn command(&self, site: &Site) -> Result<Command, Failure> {
        let file = site.scratch.join("nginx.conf");
        fs::write(&file, self.configuration(site)?)?;
        let mut command = Command::new(&self.program);
        command.arg("-p").arg(&site.scratch).arg("-c").arg(file);
        Ok(command)
    }
}

impl Nginx {
    fn configuration(&self, site: &Site) -> Result<String, Failure> {
        // A worker of a root master becomes another user, who may not be able to reach the files.
        let user = match fs::metadata("/proc/self")?.uid() {
            0 => "user root;",
            _ => "",
        };
        let module = match &self.stream {
            Stream::Loadable(module) if site.service == Service::Tunnel => {
                format!("load_module \"{}\";", module.display())
            }
            Stream::Loadable(_) | Stream::BuiltIn | Stream::Missing => String::new(),
        };
        let tls = self.tls(site);
        let service = match site.service {
            Service::Files | Service::OneAnswer => http(site, &tls, ""),
            Service::Proxy => http(site, &tls, &passing_on(site)?),
            Service::Tunnel => stream(site, &tls)?,
        };
        Ok(format!(
            r#"{module}
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptors};
pid nginx.pid;
error_log stderr warn;
events {{
    use epoll;
    multi_accept on;
    worker_connections {descriptors};
}}
{service}
"#,
            descriptors = site.connections_max,
        ))
    }

    /// No session cache: tickets need none, and storing costs time.
    fn tls(&self, site: &Site) -> String {
        let (version, groups) = match site.version {
            Version::Tls12 => ("TLSv1.2", "X25519:prime256v1"),
            Version::Tls13 => ("TLSv1.3", "X25519"),
        };
        let kernel_tls = match self.kernel_tls {
            true => "ssl_conf_command Options KTLS;",
            false => "",
        };
        format!(
            r#"
    ssl_protocols {version};
    ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_ecdh_curve {groups};
    {kernel_tls}
    ssl_session_cache off;
    ssl_session_tickets on;
    ssl_certificate "{chain}";
    ssl_certificate_key "{key}";
"#,
            chain = site.certificate.chain_file.display(),
            key = site.certificate.key_file.display(),
        )
    }
}

/// `sendfile` and `tcp_nopush` act on plain TCP and kernel TLS; in user-space TLS nginx reads files
/// into `output_buffers`. Open files are used for a minute without a look at the file system
/// (Portcullis looks once a second).
fn http(site: &Site, tls: &str, passing_on: &str) -> String {
    format!(
        r#"http {{
    access_log off;
    log_not_found off;
    server_tokens off;
    default_type application/octet-stream;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;

    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    output_buffers 2 128k;
    open_file_cache max=1000 inactive=600s;
    open_file_cache_valid 60s;
    open_file_cache_min_uses 1;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    reset_timedout_connection on;
    {tls}
    {passing_on}
    server {{
        listen {address} ssl http2 backlog=4096;
        root "{root}";
        {location}
    }}
}}
"#,
        address = site.address,
        root = site.root.display(),
        location = match passing_on {
            "" => "",
            _ => "location / { proxy_pass http://backend; }",
        },
    )
}

/// Connections to the backend are kept, as many as any cell has requests under way, for as long as
/// a run takes. Nothing goes to disk. Buffers are nginx's own: with larger ones an answer of 1 MiB
/// took it a tenth more CPU time.
fn passing_on(site: &Site) -> Result<String, Failure> {
    Ok(format!(
        r#"
    upstream backend {{
        server {backend};
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_max_temp_file_size 0;
"#,
        backend = site.backend()?,
    ))
}

fn stream(site: &Site, tls: &str) -> Result<String, Failure> {
    Ok(format!(
        r#"stream {{
    {tls}
    ssl_alpn http/1.1;
    tcp_nodelay on;
    proxy_timeout 600s;
    server {{
        listen {address} ssl backlog=4096;
        proxy_pass {backend};
    }}
}}
"#,
        address = site.address,
        backend = site.backend()?,
    ))
}
