"""Several workers that train one network, on MXNet's parameter server, ps-lite.

Every role of a job (a scheduler, servers, workers) runs the same command; DMLC_ROLE says which one
a process is. The other variables are ps-lite's too:

    DMLC_NUM_WORKER, DMLC_NUM_SERVER         how many there are
    DMLC_PS_ROOT_URI, DMLC_PS_ROOT_PORT      where the scheduler is
    DMLC_NODE_HOST or DMLC_INTERFACE         the address of this process (default: one that it has)
    PS_HEARTBEAT_INTERVAL                    seconds between two signs of life (here: 5)
    PS_HEARTBEAT_TIMEOUT                     seconds without one until a role is lost (here: 60)

The scheduler hears every role, and ends when one is lost. The others hear the scheduler, and end
when it is lost, or has ended. So the loss of any process ends all of them.

    joining       the door: loads mxnet, and becomes a role
    environment   checks these variables, before mxnet reads them
    cluster       what a worker sees of the others
    watch         ends a process that waits for something that does not come
    gathering     meets the other roles, and notices the loss of one
    exchange      what workers send each other, other than gradients
    sums          adds up the gradients of all workers
    server        what a server does with them
"""

from model import ModelError


class JobError(ModelError):
    """An error that ends a job. Every worker raises it."""
