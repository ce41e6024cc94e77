package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// What shells ask for, they are told: commands, values of flags, names of the configuration, settings.
func TestCompletion(t *testing.T) {
	path := write(t, "sluice.yaml", respond+"consumers: {alice: {}, bob: {}}\n")
	f := func(want string, args ...string) {
		t.Helper()
		out, err := sluice(t, nil, append([]string{"__complete"}, args...)...).Output()
		if err != nil || !strings.Contains("\n"+string(out), "\n"+want) {
			t.Errorf("%q: %v\n%s\nwant a line %q", args, err, out, want)
		}
	}
	f("validate\t", "val")
	f("zsh", "completion", "z")
	f("warn\n", "run", "--log-level", "")
	f("text\n", "run", "--log-format", "t")
	f("warn\trun without them", "convert", "--kong-unknown", "w")
	f("ES256\n", "token", "--alg", "")
	f("alice\n", "explain", "-c", path, "--consumer", "")
	f("main\n", "explain", "-c", path, "--listener", "")
	f("limits.idle_timeout=\n", "run", "--set", "limits.")
	f("POST\n", "explain", "-c", path, "")
	f("yaml\n", "run", "-c", "")

	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, err := sluice(t, nil, "completion", shell).Output()
		if err != nil || !strings.Contains(string(out), "sluice") {
			t.Errorf("%s: %v", shell, err)
		}
		if _, err := exec.LookPath(shell); err != nil {
			continue // the shell is what reads it; bash is everywhere
		}
		script := write(t, "script", string(out))
		if out, err := exec.CommandContext(t.Context(), shell, "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s does not read its script: %v %s", shell, err, out)
		}
	}
	c := sluice(t, nil, "completion", "tcsh")
	if out, _ := c.CombinedOutput(); c.ProcessState.ExitCode() != exitUsage {
		t.Errorf("code %d: %s", c.ProcessState.ExitCode(), out)
	}
}

// The page in the deploy files is that of the commands, with what the contract says of signals and exit codes.
func TestManualPage(t *testing.T) {
	out, err := sluice(t, nil, "man").Output()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(deploy + "/sluice.1")
	if err != nil || string(kept) != string(out) {
		t.Errorf("config/deploy/sluice.1 is not up to date (%v); run make generate", err)
	}
	for _, want := range []string{
		".TH SLUICE 1", ".SH NAME", ".SH SYNOPSIS", ".SS sluice run", ".SS sluice validate", `\-\-drain\-timeout`, "(default: 30s)",
		"SIGHUP", "SIGUSR1", "SIGUSR2", ".SH EXIT STATUS", "SLUICE_SOME_FLAG",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the page has no %s", want)
		}
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "'") || strings.HasSuffix(line, "\\\n") || line == "\n" {
			t.Errorf("roff would not read %q as text", line)
		}
	}
}
