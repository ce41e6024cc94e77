//go:build linux

package program

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
)

// roleVariable names the role that a process of this binary plays.
const roleVariable = "SLUICE_BENCH_ROLE"

// Role is what a process is for that another one of this binary has started
// with Play; "" for one that was started by its user.
func Role() string { return os.Getenv(roleVariable) }

// Child is this binary in a role. It ends when its standard input does, so
// that it does not outlive the one that started it.
type Child struct {
	Out *bufio.Reader // what it says

	cmd *exec.Cmd
	in  io.WriteCloser
}

// Play starts a child.
func Play(role string) (*Child, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &Child{cmd: cmd, in: in, Out: bufio.NewReader(out)}, cmd.Start()
}

// Send writes one line of JSON.
func (c *Child) Send(v any) error { return json.NewEncoder(c.in).Encode(v) }

// Process is the child's number.
func (c *Child) Process() int { return c.cmd.Process.Pid }

// Stop ends the child.
func (c *Child) Stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}
