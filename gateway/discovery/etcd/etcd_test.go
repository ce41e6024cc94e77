package etcd

import (
	"fmt"
	"testing"

	"sluice/gateway/discovery/discoverytest"
	"sluice/gateway/etcd/etcdtest"
)

func TestKeys(t *testing.T) {
	s := etcdtest.Start(t)
	s.Put("/svc/users/1", "10.0.0.1:80")
	s.Put("/svc/usersother", "10.9.9.9:80")
	w := discoverytest.Start(t, Definition, fmt.Sprintf("{etcd: {servers: [%q], prefix: /svc/users/, timeout: 1s}}", s.URL))
	w.Want("10.0.0.1:80")
	s.Put("/svc/users/2", `{"url": "http://10.0.0.2:80", "weight": 5, "zone": "a"}`)
	s.Put("/svc/users/3", `{"Op":0,"Addr":"10.0.0.3:80","Metadata":null}`)
	w.Want("10.0.0.1:80; 10.0.0.3:80; http://10.0.0.2:80 weight 5 in a")
	s.Delete("/svc/users/1")
	w.Want("10.0.0.3:80; http://10.0.0.2:80 weight 5 in a")
	// A value that is broken breaks nothing that was good.
	s.Put("/svc/users/4", "{")
	w.Failing("/svc/users/4")
	s.Delete("/svc/users/4")
	w.Until("recovery", func() bool { return !w.Status().Failing })
	// Killed, and changed before the watch can go on from where it was.
	s.Kill()
	w.Failing("etcd")
	s.Restart()
	s.Put("/svc/users/5", "10.0.0.5:80")
	s.Compact()
	w.Want("10.0.0.3:80; 10.0.0.5:80; http://10.0.0.2:80 weight 5 in a")
}
