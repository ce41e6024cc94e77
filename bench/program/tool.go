package program

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tool builds a program that bench/tools pins, whose module has versions of its own, so that the product's are not chosen
// by it, and returns its file in the build cache.
func Tool(name string) (string, error) {
	module, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	c := exec.Command("go", "tool", "-n", name)
	c.Dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(module))), "bench", "tools")
	out, err := c.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		err = fmt.Errorf("cannot build %s: %w\n%s", name, err, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}
