// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	systemddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups/systemd"
)

// limitProperties are the properties of a unit that an update may change
// (systemd.resource-control(5), as org.freedesktop.systemd1(5) names them).
var limitProperties = []string{
	"AllowedCPUs", "AllowedMemoryNodes", "BlockIOWeight", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec",
	"CPUShares", "CPUWeight",
	"MemoryHigh", "MemoryLimit", "MemoryLow", "MemoryMax", "MemoryMin", "MemorySwapMax", "TasksMax",
}

// busTimeout is the time that systemd may take to answer.
const busTimeout = 30 * time.Second

// propertyValues are properties of a unit by name, with values as godbus decodes them.
type propertyValues map[string]any

// limits asks systemd for the unit's limits. What it does not know of, which depends on its
// version, is left out.
func (u *Unit) limits() (propertyValues, error) {
	var values propertyValues
	err := u.ask(func(ctx context.Context, c *systemddbus.Conn) (err error) {
		values, err = c.GetUnitTypePropertiesContext(ctx, u.name(), u.kind())
		return err
	})
	for name := range values {
		if !slices.Contains(limitProperties, name) {
			delete(values, name)
		}
	}
	return values, err
}

// setBack gives the unit the limits that it had. Else systemd, which the kernel's refusal does not
// concern, would apply the new ones at the next occasion.
func (u *Unit) setBack(before propertyValues) error {
	now, err := u.limits()
	if err != nil {
		return err
	}
	var changed []systemddbus.Property
	for _, name := range limitProperties {
		if was, ok := before[name]; ok && !reflect.DeepEqual(was, now[name]) {
			changed = append(changed, systemddbus.Property{Name: name, Value: dbus.MakeVariant(was)})
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return u.ask(func(ctx context.Context, c *systemddbus.Conn) error {
		return c.SetUnitPropertiesContext(ctx, u.name(), true, changed...)
	})
}

// kind returns the interface of the unit's own properties.
func (u *Unit) kind() string {
	if strings.HasSuffix(u.name(), ".slice") {
		return "Slice"
	}
	return "Scope"
}

// ask opens a connection to the systemd that the unit is of, for one call.
func (u *Unit) ask(call func(context.Context, *systemddbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), busTimeout)
	defer cancel()
	connect := func() (*systemddbus.Conn, error) { return systemddbus.NewWithContext(ctx) }
	if u.User {
		connect = func() (*systemddbus.Conn, error) {
			return systemddbus.NewConnection(func() (*dbus.Conn, error) { return dialUser(ctx) })
		}
	}
	c, err := connect()
	if err != nil {
		return fmt.Errorf("connect to systemd: %w", err)
	}
	defer c.Close()
	if err := call(ctx, c); err != nil {
		return fmt.Errorf("unit %s: %w", u.name(), err)
	}
	return nil
}

// dialUser connects to the bus of the user's own systemd. In a user namespace it is the id outside
// that the bus knows.
func dialUser(ctx context.Context) (_ *dbus.Conn, err error) {
	address, err := systemd.DetectUserDbusSessionBusAddress()
	if err != nil {
		return nil, err
	}
	uid, err := systemd.DetectUID()
	if err != nil {
		return nil, err
	}
	c, err := dbus.Dial(address, dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err = c.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(uid))}); err == nil {
		err = c.Hello()
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}
