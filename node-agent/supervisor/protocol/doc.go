// SPDX-License-Identifier: Apache-2.0

// Package protocol is how the supervisor of a node is spoken to: the messages, the errors, and a
// client. It imports nothing of the agent, of handlers or of the runtime, so that a program which
// asks the supervisor links none of them.
//
//	client := protocol.NewClient("/run/berth/supervisor.sock")
//	request := protocol.CreateRequest{ID: "web", Bundle: "/var/lib/berth/bundles/web"}
//	st, err := client.Create(ctx, request)
//	st, err = client.Start(ctx, "web")
//	w, err := client.Watch(ctx)
//	for ev, err := w.Next(); err == nil; ev, err = w.Next() { … }
//
// A new operation is an Op constant, fields of Request and Reply, and a method of Client here, and
// a case in the server's do. An older supervisor answers ErrInvalid to an operation that it does
// not know.
package protocol
