//! A real PostgreSQL server in a folder of its own, on a Unix socket, ended with the test.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use portreeve::hub::store::PostgresSettings;
use tempfile::TempDir;

use super::PATIENCE;
use super::process::{end_of, output_of};

/// The account a server runs under where the tests run as root, which it refuses: `nobody`.
const NOBODY: u32 = 65534;
const USER: &str = "portreeve";

/// One server for all tests that neither configure nor end it; it ends with the last of them.
pub(crate) fn shared() -> Option<Arc<Postgres>> {
    static RUNNING: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap();
    let server = match running.upgrade() {
        Some(server) => server,
        None => Arc::new(Postgres::start(FAST)?),
    };
    *running = Arc::downgrade(&server);
    Some(server)
}

/// For tests that are not about what survives a crash of this machine.
pub(crate) const FAST: &str = "fsync = off\nfull_page_writes = off";

/// A server that runs.
pub(crate) struct Postgres {
    pub(crate) folder: TempDir,
    bin: PathBuf,
    server: Child,
}

impl Postgres {
    /// Starts a server with these lines in its configuration; `None`: there is none on this machine.
    pub(crate) fn start(lines: &str) -> Option<Self> {
        let bin = bin()?;
        let folder = private_folder();
        run(as_nobody(bin.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--no-locale", "--username", USER])
            .arg("--pgdata")
            .arg(folder.path().join("data")));
        Some(Self::serve(bin, folder, lines))
    }

    /// Starts a standby that follows `self`, and streams.
    pub(crate) fn standby(&self, name: &str, lines: &str) -> Self {
        let folder = private_folder();
        run(as_nobody(self.bin.join("pg_basebackup"))
            .args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"])
            .arg("--pgdata")
            .arg(folder.path().join("data"))
            .arg("--dbname")
            .arg(format!("host={} user={USER} application_name={name}", self.folder.path().display())));
        Self::serve(self.bin.clone(), folder, lines)
    }

    fn serve(bin: PathBuf, folder: TempDir, lines: &str) -> Self {
        let data = folder.path().join("data");
        let own = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nmax_connections = 200\n\
             shared_buffers = 16MB\nautovacuum = off\n{lines}\n",
            folder.path().display()
        );
        let file = data.join("own.conf");
        std::fs::write(&file, own).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(data.join("postgresql.conf"), "include 'own.conf'\n").unwrap();
        let server = Self::spawn(&bin, folder.path());
        let server = Self { folder, bin, server };
        server.ready();
        server
    }

    fn spawn(bin: &Path, folder: &Path) -> Child {
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        as_nobody(bin.join("postgres"))
            .arg("-D")
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Ends the server at once, as a crash does, and starts it again.
    pub(crate) fn crash_and_restart(&mut self) {
        self.end(rustix::process::Signal::QUIT);
        self.server = Self::spawn(&self.bin, self.folder.path());
        self.ready();
    }

    /// Ends the server for good.
    pub(crate) fn end(&mut self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.server);
        rustix::process::kill_process(pid, signal).ok();
        end_of(&mut self.server);
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        run(as_nobody(self.bin.join("pg_ctl"))
            .args(["promote", "--wait", "--silent", "--pgdata"])
            .arg(self.folder.path().join("data")));
    }

    fn ready(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.try_psql("postgres", "SELECT 1").is_err() {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "the server does not come up:\n{}", log());
        }
    }

    /// Runs statements by the server's own client; what they answer.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = as_nobody(self.bin.join("psql"));
        command
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"])
            .args(["--username", USER, "--dbname", database, "--command", sql, "--host"])
            .arg(self.folder.path());
        let done = output_of(&mut command);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
    }

    /// Makes an empty database.
    pub(crate) fn database(&self, name: &str) -> PostgresSettings {
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        self.settings(name)
    }

    /// How a database of this server is reached.
    pub(crate) fn settings(&self, database: &str) -> PostgresSettings {
        through(self.folder.path(), database)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if matches!(self.server.try_wait(), Ok(None)) {
            self.end(rustix::process::Signal::QUIT);
        }
    }
}

/// How a database is reached through the socket in `folder`.
pub(crate) fn through(folder: &Path, database: &str) -> PostgresSettings {
    let mut connection = tokio_postgres::Config::new();
    connection.host_path(folder).user(USER).password("a secret").dbname(database);
    // A machine that stands still for seconds is not what these tests are about.
    PostgresSettings::new(connection, None).with_statement_max(PATIENCE)
}

/// Where the server's programs are; `None`: not on this machine, which is a failure where checks run.
fn bin() -> Option<PathBuf> {
    let Some(bin) = std::env::var_os("PORTREEVE_POSTGRES_BIN").map(PathBuf::from) else {
        assert!(std::env::var_os("CI").is_none(), "PORTREEVE_POSTGRES_BIN is not set: run `.ci/peers`");
        eprintln!(
            "SKIPPED: no PostgreSQL. Set PORTREEVE_POSTGRES_BIN to the folder of its programs (`.ci/peers` installs them)."
        );
        return None;
    };
    Some(bin)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A folder that the server's account owns.
fn private_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    if is_root() {
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    folder
}

fn as_nobody(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.env_remove("PGHOST").env_remove("PGPORT").env("LC_ALL", "C").current_dir("/");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn run(command: &mut Command) {
    let done = output_of(command);
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{command:?}: {text}");
}
