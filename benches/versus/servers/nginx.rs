//! nginx, set up as its documentation advises for static files over TLS.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use super::{Server, Site};
use crate::Failure;
use crate::fixture::Version;
use crate::tools;

#[derive(Debug)]
pub(super) struct Nginx {
    pub(super) name: &'static str,
    /// Whether OpenSSL is told to use kernel TLS where it can.
    pub(super) kernel_tls: bool,
    pub(super) program: PathBuf,
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

    fn command(&self, site: &Site) -> Result<Command, Failure> {
        let file = site.scratch.join("nginx.conf");
        fs::write(&file, configuration(site, self.kernel_tls)?)?;
        let mut command = Command::new(&self.program);
        command.arg("-p").arg(&site.scratch).arg("-c").arg(file);
        Ok(command)
    }
}

/// `sendfile` and `tcp_nopush` act on plain TCP and kernel TLS; in user-space TLS nginx reads files
/// into `output_buffers`. Open files are used for a minute without a look at the file system
/// (Portcullis looks once a second). No session cache: tickets need none, and storing costs time.
fn configuration(site: &Site, kernel_tls: bool) -> Result<String, Failure> {
    let (version, groups) = match site.version {
        Version::Tls12 => ("TLSv1.2", "X25519:prime256v1"),
        Version::Tls13 => ("TLSv1.3", "X25519"),
    };
    let kernel_tls = match kernel_tls {
        true => "ssl_conf_command Options KTLS;",
        false => "",
    };
    // A worker of a root master becomes another user, who may not be able to reach the files.
    let user = match fs::metadata("/proc/self")?.uid() {
        0 => "user root;",
        _ => "",
    };
    Ok(format!(
        r#"{user}
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
http {{
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

    ssl_protocols {version};
    ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_ecdh_curve {groups};
    {kernel_tls}
    ssl_session_cache off;
    ssl_session_tickets on;

    server {{
        listen {address} ssl http2 backlog=4096;
        ssl_certificate "{chain}";
        ssl_certificate_key "{key}";
        root "{root}";
    }}
}}
"#,
        descriptors = site.connections_max,
        address = site.address,
        chain = site.certificate.chain_file.display(),
        key = site.certificate.key_file.display(),
        root = site.root.display(),
    ))
}
