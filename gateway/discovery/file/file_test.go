package file

import (
	"os"
	"path/filepath"
	"testing"

	"sluice/gateway/discovery/discoverytest"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	w := discoverytest.Start(t, Definition, "{file: "+path+"}")
	w.Failing("no such file")
	write("- 10.0.0.1:80\n- {url: http://10.0.0.2:80/base, weight: 3, zone: a}\n")
	w.Want("10.0.0.1:80; http://10.0.0.2:80/base weight 3 in a")
	write("- 10.0.0.1:80\n- {uri: 10.0.0.2:80}\n")
	w.Failing("unknown setting")
	w.Want("10.0.0.1:80; http://10.0.0.2:80/base weight 3 in a")
	write(`["10.0.0.3:80"]`)
	w.Want("10.0.0.3:80")
	if st := w.Status(); st.Failing {
		t.Errorf("%+v", st)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.Failing("no such file")
	w.Want("10.0.0.3:80")
}
