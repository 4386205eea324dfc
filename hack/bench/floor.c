// SPDX-License-Identifier: Apache-2.0
//
// The system calls that a container of the default spec needs and nothing else: the floor that `make bench-runtime` measures
// against. usage: floor ROOTFS N [CGROUPS=1 [NETNS=1]]
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/prctl.h>
#include <time.h>
#include <linux/sched.h>
static void die(const char*s){perror(s);_exit(99);}
#define CK(x) do{ if((x)<0) die(#x);}while(0)
static const char *cg[]={"cpu","cpuacct","cpuset","memory","devices","freezer","blkio","pids","unified"};
static int lacks[sizeof cg/sizeof*cg]; // no such hierarchy here
int main(int c,char**v){ const char*root=v[1]; int n=atoi(v[2]); int usecg=c>3?atoi(v[3]):1; int useNet=c>4?atoi(v[4]):1;
 for(unsigned k=0;k<sizeof cg/sizeof*cg;k++){ char p[256]; snprintf(p,256,"/sys/fs/cgroup/%s/cgroup.procs",cg[k]); lacks[k]=access(p,F_OK)<0; }
 struct timespec a,b; clock_gettime(CLOCK_MONOTONIC,&a);
 for(int i=0;i<n;i++){ char p[256];
  if(usecg) for(unsigned k=0;k<sizeof cg/sizeof*cg;k++){ if(lacks[k]) continue; snprintf(p,256,"/sys/fs/cgroup/%s/floor%d",cg[k],getpid()); mkdir(p,0755);
    if(!strcmp(cg[k],"cpuset")){ char q[300]; int f; snprintf(q,300,"%s/cpuset.cpus",p); f=open(q,O_WRONLY); write(f,"0-1",3); close(f); snprintf(q,300,"%s/cpuset.mems",p); f=open(q,O_WRONLY); write(f,"0",1); close(f);} }
  int pp[2]; pipe(pp);
  struct clone_args ca={.flags=CLONE_NEWNS|CLONE_NEWPID|CLONE_NEWIPC|CLONE_NEWUTS|(useNet?CLONE_NEWNET:0)|CLONE_NEWCGROUP|CLONE_VFORK*0,.exit_signal=SIGCHLD};
  int pid=syscall(SYS_clone3,&ca,sizeof ca); if(pid<0) die("clone3");
  if(pid==0){ char ch; read(pp[0],&ch,1);
   CK(mount(0,"/",0,MS_REC|MS_PRIVATE,0)); CK(mount(root,root,0,MS_BIND|MS_REC,0)); CK(chdir(root));
   CK(mount("proc","proc","proc",0,0)); CK(mount("tmpfs","dev","tmpfs",MS_NOSUID|MS_STRICTATIME,"mode=755,size=65536k"));
   CK(mkdir("dev/pts",0755)); CK(mkdir("dev/shm",0755)); CK(mkdir("dev/mqueue",0755));
   CK(mount("devpts","dev/pts","devpts",MS_NOSUID|MS_NOEXEC,"newinstance,ptmxmode=0666,mode=0620")); CK(mount("shm","dev/shm","tmpfs",MS_NOSUID|MS_NODEV|MS_NOEXEC,"mode=1777,size=65536k"));
   CK(mount("mqueue","dev/mqueue","mqueue",0,0)); if(useNet) CK(mount("sysfs","sys","sysfs",MS_RDONLY|MS_NOSUID|MS_NODEV|MS_NOEXEC,0)); else CK(mount("/sys","sys",0,MS_BIND|MS_REC,0));
   int dv[6][2]={{1,3},{1,5},{1,7},{1,8},{1,9},{5,0}}; const char*dn[]={"null","zero","full","random","urandom","tty"};
   for(int k=0;k<6;k++){ char q[64]; snprintf(q,64,"dev/%s",dn[k]); CK(mknod(q,S_IFCHR|0666,makedev(dv[k][0],dv[k][1]))); }
   symlink("/proc/self/fd","dev/fd");symlink("/proc/self/fd/0","dev/stdin");symlink("/proc/self/fd/1","dev/stdout");symlink("/proc/self/fd/2","dev/stderr");symlink("pts/ptmx","dev/ptmx");
   CK(syscall(SYS_pivot_root,".",".")); CK(umount2(".",MNT_DETACH)); CK(chdir("/"));
   const char*ro[]={"/proc/bus","/proc/fs","/proc/irq","/proc/sys"}; for(int k=0;k<4;k++){ mount(ro[k],ro[k],0,MS_BIND|MS_REC,0); mount(ro[k],ro[k],0,MS_BIND|MS_REMOUNT|MS_RDONLY|MS_REC,0);}
   const char*mk[]={"/proc/kcore","/proc/keys","/proc/timer_list","/proc/sched_debug"}; for(int k=0;k<4;k++) mount("/dev/null",mk[k],0,MS_BIND,0);
   const char*mt[]={"/proc/acpi","/proc/scsi","/sys/firmware"}; for(int k=0;k<3;k++) mount("tmpfs",mt[k],"tmpfs",MS_RDONLY,0);
   sethostname("floor",5); setsid(); umask(022); prctl(PR_SET_NO_NEW_PRIVS,1,0,0,0);
   for(int k=0;k<41;k++) if(k!=29&&k!=5&&k!=10) prctl(PR_CAPBSET_DROP,k,0,0,0);
   char*ar[]={"/bin/true",0}; char*en[]={"PATH=/bin",0}; execve("/bin/true",ar,en); die("exec"); }
  if(usecg) for(unsigned k=0;k<sizeof cg/sizeof*cg;k++){ if(lacks[k]) continue; snprintf(p,256,"/sys/fs/cgroup/%s/floor%d/cgroup.procs",cg[k],getpid()); int f=open(p,O_WRONLY); char s[16]; int l=snprintf(s,16,"%d",pid); if(write(f,s,l)<0) perror(p); close(f);}
  write(pp[1],"x",1); close(pp[0]);close(pp[1]); int st; waitpid(pid,&st,0); if(st) {printf("status %x\n",st);return 1;}
  if(usecg) for(unsigned k=0;k<sizeof cg/sizeof*cg;k++){ if(lacks[k]) continue; snprintf(p,256,"/sys/fs/cgroup/%s/floor%d",cg[k],getpid()); for(int t=0;t<100&&rmdir(p)&&errno==EBUSY;t++) usleep(200);} }
 clock_gettime(CLOCK_MONOTONIC,&b); printf("%.3f ms per container\n",((b.tv_sec-a.tv_sec)*1e3+(b.tv_nsec-a.tv_nsec)/1e6)/n); }
