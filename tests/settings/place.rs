//! Settings of a test's own: a directory, an ini in it, and the surroundings of a process.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stark::config::{self, Config, Loaded, Surroundings};
use tempfile::TempDir;

/// A directory with a `run.php`, and the surroundings of a process that was started in it.
pub struct Place {
    pub directory: TempDir,
    pub here: Surroundings,
    pub overrides: Vec<String>,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let here = Surroundings {
            environment: [("HOME".to_owned(), "/home/me".to_owned())].into(),
            directory: directory.path().to_owned(),
            cores: vec![0, 1, 4, 5],
            parallelism: 3,
        };
        let place = Self {
            directory,
            here,
            overrides: Vec::new(),
        };
        place.write("run.php", "<?php function run($worker, $data) {}");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
        self.chmod(name, 0o600);
    }

    pub fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.here.environment.insert(name.into(), value.into());
        self
    }

    pub fn set(mut self, argument: &str) -> Self {
        self.overrides.push(argument.into());
        self
    }

    pub fn load(&self, ini: &str) -> Result<Loaded, String> {
        self.write("worker.ini", ini);
        self.load_file("worker.ini")
    }

    pub fn load_file(&self, file: &str) -> Result<Loaded, String> {
        config::load_in(Path::new(file), &self.overrides, &self.here)
            .map_err(|mistakes| mistakes.to_string())
    }

    pub fn config(&self, ini: &str) -> Config {
        let loaded = self
            .load(ini)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(loaded.warnings, [""; 0]);
        loaded.config
    }
}

/// All mistakes of an ini that otherwise runs `builtin = null`.
pub fn mistakes(ini: &str) -> String {
    let place = Place::new();
    let ini = format!("{ini}\n[run]\nbuiltin = null\n");
    place.load(&ini).map_or_else(|m| m, |_| String::new())
}

pub fn config(ini: &str) -> Config {
    Place::new().config(&format!("{ini}\n[run]\nbuiltin = null\n"))
}
